"""Gain against exact values on mixtures in the plane: by quadrature, of the exact and of a learned ratio."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from diffusion.mixtures import MODEL, REAL, Mixture, exact_log_ratio
from torch import Tensor, nn

from dgflow.diffusion import gain, noise, times
from dgflow.diffusion.discriminator_guidance import log_ratio_and_gradient
from dgflow.diffusion.gain_curve import Estimate, GainChoice, GainCurve, LevelGain, MeasuredGain
from dgflow.diffusion.losses import discriminator_loss, perturb

LEVELS = 8
EDGES = gain.level_edges(LEVELS, 0.05, 20.0)
WIDTH = math.log(EDGES[1] / EDGES[0])
BLIND = Mixture((1.0,), ((0.3, 0.2),), 0.9)  # a model without modes


@cache
def noisy(images: int = 2000, seed: int = 3, model: Mixture = MODEL) -> gain.Noisy:
    """Returns held-out real points at every level, with the levels of an image adjacent."""
    index = torch.arange(images * LEVELS)
    of_image, level = index // LEVELS, index % LEVELS
    real = REAL.draw(
        noise.uniform(seed, of_image, (), step=0), noise.standard_normal(seed, of_image, (2,), step=0, draw=1)
    )
    quantile = (level + noise.uniform(seed, index, (), step=0, draw=noise.LEVEL)) / LEVELS
    sigma = times.log_uniform_sigma(quantile, EDGES[0], EDGES[-1])
    z = noise.standard_normal(seed, index, (2,), step=0, draw=noise.NOISE)
    return gain.denoised(model.denoiser, real, sigma, z)


def measured(
    log_ratio: Callable[..., Tensor], images: int = 2000, seed: int = 3, model: Mixture = MODEL
) -> MeasuredGain:
    moments = gain.moments(log_ratio, noisy(images, seed, model))
    items = gain.Moments(*(values.view(images, LEVELS) for values in moments))
    return gain.measured(items, EDGES)


def grid(sigma: float, nodes: int = 161) -> tuple[Tensor, float]:
    """Returns points [n, 2] of a square that holds all the mass at this level, and the area of each."""
    side = 2.0 + 6.0 * math.sqrt(0.3**2 + sigma**2)
    ticks = torch.linspace(-side, side, nodes, dtype=torch.float64)
    return torch.cartesian_prod(ticks, ticks), float(ticks[1] - ticks[0]) ** 2


def divergence(one: Mixture, other: Mixture, sigma: float) -> float:
    """Returns KL(one || other) of the diffused densities, by quadrature."""
    x, area = grid(sigma)
    level = torch.full((len(x),), sigma, dtype=torch.float64)
    log_one = one.log_density(x, level)
    return float((log_one.exp() * (log_one - other.log_density(x, level))).sum()) * area


def exact(log_ratio: Callable[..., Tensor], low: float, high: float) -> tuple[float, float]:
    """Returns agreement and energy of these levels by quadrature: Gauss-Legendre for the noise levels, a grid
    for the points, and E[x0 | x] instead of x0."""
    sums = [0.0, 0.0]
    for node, weight in ((-0.7745966692, 5 / 9), (0.0, 8 / 9), (0.7745966692, 5 / 9)):
        sigma = math.exp(0.5 * (math.log(low * high) + node * math.log(high / low)))
        x, area = grid(sigma, 81)
        level = torch.full((len(x),), sigma, dtype=torch.float64)
        _, gradient = log_ratio_and_gradient(log_ratio, x, level, None)
        mass = REAL.log_density(x, level).exp() * area
        gap = REAL.denoiser(x, level) - MODEL.denoiser(x, level)
        found = (mass * (gap * gradient).sum(1)).sum(), (mass * (sigma * gradient).square().sum(1)).sum()
        for number, value in enumerate(found):
            sums[number] += 0.5 * math.log(high / low) * weight * float(value)
    return sums[0], sums[1]


class Perceptron(nn.Module):
    """Maps points, scaled to unit size at every level, and log sigma to a logit."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.last = nn.Linear(width, 1)
        layers = (nn.Linear(3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), self.last)
        self.body = nn.Sequential(*layers)

    def forward(self, y: Tensor, tau: Tensor, class_labels: Tensor | None = None) -> Tensor:
        del class_labels
        sigma = times.sigma_from_tau(tau.double()).float()[:, None]
        x = y * (1 + sigma.square()).sqrt()
        return self.body(torch.cat([x / (0.5 + sigma), sigma.log()], dim=1))[:, 0]


class Training:
    """A perceptron that learns REAL against BLIND by Algorithm 1."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = Perceptron()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-2)

    def goes_on(self, steps: int, points: int) -> Estimate:
        """Runs some steps on that many points of each kind; returns Gain after them on other points, at
        weight 1."""
        index = torch.arange(points)
        kinds = [
            each.draw(
                noise.uniform(seed, index, (), step=0),
                noise.standard_normal(seed, index, (2,), step=0, draw=1),
            )
            for seed, each in ((5, REAL), (6, BLIND))
        ]
        data, is_real = torch.cat(kinds).float(), torch.arange(2 * points) < points
        for _ in range(steps):
            chosen = torch.randint(2 * points, (256,))
            tau = times.tau_from_sigma(times.log_uniform_sigma(torch.rand(256), EDGES[0], EDGES[-1]))
            logit = self.network(perturb(data[chosen], tau, torch.randn(256, 2)), tau)
            self.optimizer.zero_grad()
            discriminator_loss(logit, is_real[chosen]).mean().backward()
            self.optimizer.step()
        return measured(self.network, model=BLIND).total.at(1.0)


@pytest.fixture(scope="module")
def learned() -> Perceptron:
    torch.manual_seed(1)
    network = Perceptron()
    nn.init.normal_(network.last.weight, std=0.3)
    return network


def test_the_gain_of_the_exact_ratio_is_the_fall_of_the_divergence_between_data_and_model() -> None:
    """Theorem 2: over the measured levels KL(data || model) falls by its value at the lowest minus that at
    the highest, which diffusion itself has removed."""
    fall = divergence(REAL, MODEL, EDGES[0]) - divergence(REAL, MODEL, EDGES[-1])
    found = measured(exact_log_ratio)
    for weight in (0.0, 0.5, 1.0, 1.5, 2.0):
        mean, error = found.total.at(weight)
        assert abs(mean - (2 * weight - weight**2) * fall) <= 3 * error, weight
        assert error < 0.1 * fall or weight > 1, weight
    best, error = found.total.best_weight
    assert abs(best - 1.0) <= 3 * error < 0.15


def test_the_quadrature_of_the_exact_ratio_is_that_divergence() -> None:
    """Compares the oracle of the learned ratio with that of the exact one: agreement and energy are equal."""
    fall = divergence(REAL, MODEL, EDGES[0]) - divergence(REAL, MODEL, EDGES[-1])
    parts = [exact(exact_log_ratio, low, high) for low, high in zip(EDGES[:-1], EDGES[1:], strict=True)]
    for sums in zip(*parts, strict=True):
        assert sum(sums) == pytest.approx(fall, rel=2e-3)


def test_the_gain_of_a_learned_ratio_is_exact_within_its_error_at_every_level_and_weight(learned) -> None:
    found, totals = measured(learned), [0.0, 0.0]
    for level in found.levels:
        agreement, energy = exact(learned, level.low, level.high)
        totals = [totals[0] + agreement, totals[1] + energy]
        for weight in (-1.0, 0.5, 1.0, 2.0):
            mean, error = level.curve.at(weight)
            assert abs(mean - (2 * weight * agreement - weight**2 * energy)) <= 3.5 * error
    for weight in (-1.0, 0.5, 1.0, 2.0):
        mean, error = found.total.at(weight)
        assert abs(mean - (2 * weight * totals[0] - weight**2 * totals[1])) <= 3.5 * error


def test_the_error_is_that_of_repeated_measurements_and_knows_that_the_items_of_an_image_belong_together(
    learned,
) -> None:
    """Computes the spread of 60 measurements on other images, for the total and for one level."""
    repeats = [measured(learned, images=100, seed=seed) for seed in range(10, 70)]
    for take in (lambda each: each.total, lambda each: each.levels[3].curve):
        for weight in (1.0, 2.0):
            means = torch.tensor([take(each).at(weight).mean for each in repeats])
            errors = torch.tensor([take(each).at(weight).error for each in repeats])
            # The standard deviation of 60 is known to 9 %.
            assert float(means.std() / errors.square().mean().sqrt()) == pytest.approx(1.0, abs=0.3)


def test_images_that_stand_there_twice_do_not_make_the_error_of_the_total_smaller_level_by_level() -> None:
    """Items of an image are equal at every level, so the error of the total is that of one level times their
    number, and not times its root."""
    one = torch.randn(500, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    items = gain.Moments(one.expand(-1, LEVELS), one.square().expand(-1, LEVELS))
    found = gain.measured(items, EDGES)
    assert found.total.at(1.0).error == pytest.approx(LEVELS * found.levels[0].curve.at(1.0).error)
    assert found.levels[0].curve.at(1.0).error == pytest.approx(
        WIDTH * float((2 * one - one.square()).std()) / math.sqrt(500)
    )


def test_theorem_2_has_its_signs_untrained_about_0_trained_above_and_overfitted_below_its_best() -> None:
    """The upper bound of Gain is the divergence between data and model."""
    most = divergence(REAL, BLIND, EDGES[0]) - divergence(REAL, BLIND, EDGES[-1])
    training = Training()
    untrained = training.goes_on(0, points=5000)
    trained = training.goes_on(200, points=5000)
    overfitted = training.goes_on(100, points=15)
    assert abs(untrained.mean) < 0.02 * most
    assert 0.5 * most < trained.lower_bound and trained.mean < most + 3 * trained.error
    assert overfitted.mean + 3 * overfitted.error < trained.mean - 3 * trained.error


def test_what_is_recorded_is_read_back_whole(learned) -> None:
    found = measured(learned, images=50)
    plain = found.plain()
    assert MeasuredGain.of(plain) == found
    assert plain["weights"] == [0.5, 1.0, 2.0]
    for number, weight in enumerate(plain["weights"]):
        assert (plain["gain"][number], plain["error"][number]) == found.total.at(weight)
    assert sum(each["gain"][1] for each in plain["by_sigma"]) == pytest.approx(plain["gain"][1])


def test_one_image_has_no_error_and_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two images, .* found 1"):
        gain.measured(gain.Moments(torch.zeros(1, 2), torch.zeros(1, 2)), (1.0, 2.0, 4.0))


def _curve(agreement: float, energy: float, error: float = 0.01) -> GainCurve:
    return GainCurve(agreement, energy, (error**2, 0.0, error**2))


def _of(*levels: tuple[float, float]) -> MeasuredGain:
    """Returns levels of a factor of 10 from sigma = 0.01 on, from agreement and energy."""
    parts = [
        LevelGain(10.0 ** (number - 2), 10.0 ** (number - 1), _curve(*level))
        for number, level in enumerate(levels)
    ]
    total = _curve(sum(level[0] for level in levels), sum(level[1] for level in levels))
    return MeasuredGain(100, total, tuple(parts))


def test_the_chosen_weight_is_the_vertex_of_the_parabola() -> None:
    curve = GainCurve(0.4, 0.5, (0.01, 0.002, 0.004))
    assert curve.best_weight.mean == 0.8
    # By the rule for a ratio: (0.01 - 2 * 0.8 * 0.002 + 0.64 * 0.004) / 0.25.
    assert curve.best_weight.error == pytest.approx(math.sqrt(0.00936 / 0.25))
    assert curve.at(0.8).mean == pytest.approx(0.32)
    assert curve.at(0.8).mean > max(curve.at(0.79).mean, curve.at(0.81).mean)


def test_the_window_is_the_range_of_levels_with_the_largest_gain_that_is_surely_above_0() -> None:
    found = _of((0.0, 0.2), (0.1, 0.1), (-0.1, 0.1), (0.3, 0.3), (0.2, 0.1), (0.005, 0.002))
    assert [level.low for level in found.window(1.0)] == [10.0, 100.0]
    choice = GainChoice.of(found, None, low=True, high=True)
    assert (choice.weight, choice.sigma_min, choice.sigma_max) == (1.25, 10.0, 1000.0)
    assert str(choice) == "weight 1.25, sigma from 10 to 1e+03"


def test_a_window_that_reaches_the_highest_level_has_no_upper_end() -> None:
    found = _of((-0.1, 0.1), (0.3, 0.3))
    choice = GainChoice.of(found, 0.5, low=True, high=True)
    assert (choice.weight, choice.sigma_min, choice.sigma_max) == (None, 0.1, math.inf)
    assert str(choice) == "sigma from 0.1 without an upper end"


@pytest.mark.parametrize(
    ("levels", "ends"),
    [
        (((-0.2, 0.1), (0.1, 0.1)), False),  # negative on the whole
        (((0.005, 0.01), (0.005, 0.01)), False),  # not significant
        (((0.015, 0.015), (0.015, 0.015)), True),  # significant on the whole, and at no level
    ],
)
def test_without_a_gain_above_0_the_weight_is_0(levels, ends) -> None:
    choice = GainChoice.of(_of(*levels), None, low=ends, high=ends)
    assert choice == GainChoice(weight=0.0) and not choice.guides
    assert str(choice) == "weight 0, as no weight has a Gain above 0"
