"""Likelihood and its bound against closed forms: mixtures with known density at every noise level, and single
Gaussians, whose guided flow is linear."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusion.device_reads import ForbidReads
from diffusion.mixtures import MODEL, REAL, Labelled, Mixture, exact_log_ratio
from scipy.integrate import quad, solve_ivp
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from dgflow.diffusion import noise
from dgflow.diffusion.classifier_guidance import ClassifierTerm
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.ensembles import EnsembleLogRatio
from dgflow.diffusion.guidance import GuidanceTerm, Point, guide, guided
from dgflow.diffusion.guidance_settings import Boost, ClassifierSettings, DiscriminatorSettings, Switch
from dgflow.diffusion.likelihood import bits_per_dimension, log_likelihood, nelbo, value_and_trace
from dgflow.diffusion.times import sigma_from_tau

LOW, HIGH = 0.02, 1e5
"""Noise levels. The higher one is where a mixture is a Gaussian to five digits."""
ENDS: dict[str, Any] = {"sigma_min": LOW, "sigma_max": HIGH}
INDEX = torch.arange(6)


def sigmas(level: float, count: int = len(INDEX)) -> Tensor:
    return torch.full((count,), level, dtype=torch.float64)


def drawn(mixture: Mixture, count: int = len(INDEX), level: float = LOW) -> Tensor:
    """Returns points of the mixture with noise of that level."""
    index = torch.arange(count)
    clean = mixture.draw(noise.uniform(5, index, (), step=0), noise.standard_normal(5, index, (2,), step=1))
    return clean + level * noise.standard_normal(5, index, (2,), step=2)


def ratio(weight: float | Switch = 1.0, tau_min: float = 0.0, tau_max: float = 1.0) -> DiscriminatorTerm:
    """Returns guidance from MODEL to REAL by the exact ratio. `tau_max` at 1 is no upper end."""
    return DiscriminatorTerm(
        exact_log_ratio, DiscriminatorSettings(weight=weight, tau_min=tau_min, tau_max=tau_max)
    )


@pytest.mark.parametrize("mixture", [REAL, MODEL], ids=["real", "model"])
def test_the_likelihood_of_exact_scores_is_the_density_of_the_mixture(mixture: Mixture) -> None:
    x = drawn(REAL)
    found = log_likelihood(mixture.denoiser, x, **ENDS)
    torch.testing.assert_close(found.nats, mixture.log_density(x, sigmas(LOW)), rtol=0, atol=1e-3)


def test_guided_with_the_exact_ratio_a_model_has_the_likelihood_of_the_data() -> None:
    x = drawn(REAL)
    found = log_likelihood(MODEL.denoiser, x, guidance=[ratio()], **ENDS)
    torch.testing.assert_close(found.nats, REAL.log_density(x, sigmas(LOW)), rtol=0, atol=1e-3)
    assert float((MODEL.log_density(x, sigmas(LOW)) - found.nats).abs().max()) > 0.5


def test_the_evaluations_of_an_image_alone_are_those_of_the_denoiser() -> None:
    asked = []

    def counting(x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        asked.append(sigma)
        return MODEL.denoiser(x, sigma, class_labels)

    found = log_likelihood(counting, drawn(REAL, 1), guidance=[ratio(tau_min=0.1, tau_max=0.6)], **ENDS)
    assert found.nfe.tolist() == [len(asked)]


def test_the_error_falls_with_the_tolerance() -> None:
    x = drawn(REAL, 4)
    exact = REAL.log_density(x, sigmas(LOW, 4))
    needed = []
    for tolerance in (1e-3, 1e-4, 1e-6):
        found = log_likelihood(REAL.denoiser, x, rtol=tolerance, atol=tolerance, **ENDS)
        assert float((found.nats - exact).abs().max()) < 100 * tolerance
        needed.append(found.nfe.sum())
    assert needed == sorted(needed)


def test_the_latents_are_what_the_sampler_starts_from() -> None:
    """Unit normals, which the ODE takes to a point of a Gaussian of standard deviation 0.5."""
    x = drawn(REAL)
    found = log_likelihood(gaussian(0.5), x, **ENDS)
    torch.testing.assert_close(found.latents, x / math.hypot(0.5, LOW), rtol=1e-4, atol=0)
    wide = log_likelihood(gaussian(0.5), x, prior_std=2 * HIGH, **ENDS)
    torch.testing.assert_close(wide.latents, 0.5 * found.latents, rtol=1e-12, atol=0)


def test_an_image_does_not_depend_on_its_batch() -> None:
    """Each image has its own steps and probe: those far out need more than the others."""
    x = drawn(REAL, 3) * torch.tensor([1, 30, 6])[:, None]
    options = {"guidance": [ratio(tau_min=0.1, tau_max=0.6)], "sigma_min": LOW, "sigma_max": 80.0}
    whole = log_likelihood(MODEL.denoiser, x, probe=signs(x), **options)
    needed = []
    for i in range(len(x)):
        alone = log_likelihood(MODEL.denoiser, x[i : i + 1], probe=signs(x)[i : i + 1], **options)
        torch.testing.assert_close(alone.nats, whole.nats[i : i + 1], rtol=1e-9, atol=1e-9)
        needed.append(int(alone.nfe))
    assert whole.nfe.tolist() == needed and max(needed) > min(needed)


def signs(x: Tensor) -> Tensor:
    uniforms = noise.uniform(6, torch.arange(len(x)), x.shape[1:], step=0)
    return torch.where(uniforms < 0.5, -1.0, 1.0).double()


def test_the_mean_over_all_probes_is_the_likelihood() -> None:
    """In the plane there are four, in pairs of equal divergence."""
    x = drawn(REAL)
    probes = (torch.tensor(pair).double().expand_as(x) for pair in ((1, 1), (1, -1)))
    first, second = (
        log_likelihood(MODEL.denoiser, x, probe=probe, guidance=[ratio()], **ENDS) for probe in probes
    )
    exact = REAL.log_density(x, sigmas(LOW))
    torch.testing.assert_close(0.5 * (first.nats + second.nats), exact, rtol=0, atol=1e-3)
    assert float((first.nats - second.nats).abs().max()) > 0.1


def gaussian(std: float) -> Callable[..., Tensor]:
    return lambda x, sigma, class_labels=None: x * (std**2 / (std**2 + sigma**2))[:, None]


DATA, FOUND = 0.3, 0.5
"""Standard deviations of the data and of what a model has learned."""


def gaussian_ratio(y: Tensor, tau: Tensor, class_labels: Tensor | None = None) -> Tensor:
    sigma = sigma_from_tau(tau.double())
    x2 = y.double().square().sum(1) * (1 + sigma**2)
    return 0.5 * x2 * (1 / (FOUND**2 + sigma**2) - 1 / (DATA**2 + sigma**2))


def linear_term(**settings: Any) -> DiscriminatorTerm:
    return DiscriminatorTerm(gaussian_ratio, DiscriminatorSettings(**settings))


SWITCH = Switch(above=0.5, below=2.0, timestep=300)
PIECES: dict[str, tuple[dict[str, Any], list[tuple[float, float]]]] = {
    "half the weight": ({"weight": 0.5, "tau_min": 0.0}, [(0.0, 0.5)]),
    "twice the weight": ({"weight": 2.0, "tau_min": 0.0}, [(0.0, 2.0)]),
    "a window": (
        {"tau_min": 0.1, "tau_max": 0.6},
        [(0.0, 0.0), (sigma_from_tau(0.1), 1.0), (sigma_from_tau(0.6), 0.0)],
    ),
    "a switch": ({"weight": SWITCH, "tau_min": 0.0}, [(0.0, 2.0), (sigma_from_tau(SWITCH.tau), 0.5)]),
}
"""Settings of guidance, and from which noise level on each of their weights acts."""


@pytest.mark.parametrize(("settings", "weights"), PIECES.values(), ids=PIECES)
def test_the_likelihood_of_a_linear_flow_has_its_closed_form(
    settings: dict[str, Any], weights: list[tuple[float, float]]
) -> None:
    """x grows by ((data^2 + high^2) / (data^2 + low^2))^(w/2) ((model^2 + high^2) / (model^2 + low^2))^((1 -
    w)/2) from the lower level to the higher in each piece, whatever x is."""
    x = drawn(REAL)
    starts = [max(start, LOW) for start, _ in weights]
    growth = 0.0
    for low, high, (_, weight) in zip(starts, [*starts[1:], HIGH], weights, strict=True):
        for std, share in ((DATA, weight), (FOUND, 1 - weight)):
            growth += share * math.log(math.hypot(std, high) / math.hypot(std, low))
    latents = x * math.exp(growth) / HIGH
    nats = -0.5 * latents.square().sum(1) - 2 * math.log(HIGH * math.sqrt(2 * math.pi)) + 2 * growth
    found = log_likelihood(gaussian(FOUND), x, guidance=[linear_term(**settings)], **ENDS)
    torch.testing.assert_close(found.nats, nats, rtol=0, atol=2e-3)


POINTS = torch.tensor([[0.3, -0.2], [-1.0, 0.4], [1.4, 0.3], [0.1, 0.9], [-0.4, -0.7]], dtype=torch.float64)
LEVELS = torch.tensor([0.4, 0.7, 1.1, 2.0, 5.0], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 0, 1, 0])


def classifier_term(**settings: Any) -> ClassifierTerm:
    return ClassifierTerm(Labelled(REAL).logits, ClassifierSettings(**settings))


def members(y: Tensor, tau: Tensor, class_labels: Tensor | None) -> Tensor:
    exact = exact_log_ratio(y, tau)
    return torch.stack([exact, 2 * exact + y[:, 0].sin()])


TERMS: dict[str, list[GuidanceTerm]] = {
    "the exact ratio": [ratio(1.5)],
    "a weight that switches": [ratio(Switch(above=0.5, below=2.0, timestep=300))],
    "a window": [ratio(tau_min=0.2, tau_max=0.5)],
    "saturated": [DiscriminatorTerm(exact_log_ratio, DiscriminatorSettings(saturate=True))],
    "mean logits": [DiscriminatorTerm(EnsembleLogRatio(members))],
    "mean probability": [DiscriminatorTerm(EnsembleLogRatio(members, "probabilities"))],
    "a classifier": [classifier_term()],
    "a classifier scaled by its entropy": [classifier_term(entropy_scaling=True)],
    "the norm of the classifier's": [
        classifier_term(weight=0.7),
        DiscriminatorTerm(exact_log_ratio, DiscriminatorSettings(match_preceding_norm=True)),
    ],
}


def guided_model(terms: Sequence[GuidanceTerm]) -> Callable[[Tensor], Tensor]:
    def denoise(x: Tensor) -> Tensor:
        bounds = (float(LEVELS.min()), float(LEVELS.max()))
        advice = guide(terms, Point(x, LEVELS, LABELS, 0, 1, bounds))
        return guided(advice, LEVELS, MODEL.denoiser(x, LEVELS))

    return denoise


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_the_trace_is_that_of_finite_differences_of_the_guidance_that_samples(
    terms: list[GuidanceTerm],
) -> None:
    """Scales that depend on x are part of the flow, so they are differentiated with it."""
    field, step = guided_model(terms), 3e-3
    value, trace = value_and_trace(field, POINTS, None)
    torch.testing.assert_close(value, field(POINTS), rtol=1e-6, atol=1e-6)
    expected = torch.zeros(len(POINTS), dtype=torch.float64)
    for axis, shift in enumerate(step * torch.eye(2, dtype=torch.float64)):
        expected += (field(POINTS + shift) - field(POINTS - shift))[:, axis] / (2 * step)
    torch.testing.assert_close(trace, expected, rtol=2e-3, atol=2e-3)


def bound(
    denoiser: Callable[..., Tensor], x0: Tensor, terms: Sequence[GuidanceTerm] = ()
) -> tuple[Tensor, Tensor]:
    """Returns the bound of every image from 400 estimates of 16 draws, and its standard error."""
    index = torch.arange(400 * len(x0))
    normals = noise.standard_normal(7, index, (16, 2), step=0, draw=1)
    found = nelbo(
        denoiser,
        x0.repeat_interleave(400, 0),
        uniforms=noise.uniform(7, index, (16,), step=0),
        normals=list(normals.unbind(1)),
        guidance=terms,
        **ENDS,
    ).reshape(len(x0), 400)
    return found.mean(1), found.std(1) / 20


@pytest.mark.parametrize(
    ("model", "terms", "truth"),
    [(REAL, [], REAL), (MODEL, [], MODEL), (MODEL, [ratio()], REAL)],
    ids=["real", "model", "guided"],
)
def test_the_bound_is_the_likelihood_where_the_scores_are_those_of_one_diffused_distribution(
    model: Mixture, terms: list[GuidanceTerm], truth: Mixture
) -> None:
    """E[-log p(x0 + low z)] is computed by Gauss-Hermite quadrature."""
    x0 = drawn(REAL, 4, level=0.0)
    nodes = torch.tensor([-math.sqrt(3.0), 0.0, math.sqrt(3.0)], dtype=torch.float64)
    weights = torch.tensor([1 / 6, 2 / 3, 1 / 6], dtype=torch.float64)
    exact = torch.zeros(4, dtype=torch.float64)
    for first, one in zip(nodes, weights, strict=True):
        for second, other in zip(nodes, weights, strict=True):
            shifted = x0 + LOW * torch.stack([first, second])
            exact -= one * other * truth.log_density(shifted, sigmas(LOW, 4))
    found, error = bound(model.denoiser, x0, terms)
    assert float(error.max()) < 0.2
    assert bool(((found - exact).abs() < 4 * error).all())


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_the_bound_of_a_gaussian_has_its_closed_form_and_is_no_less_than_the_likelihood(
    weight: float,
) -> None:
    """With score -g x and v = sigma^2: v E|score + z / sigma|^2 - d = v (g^2 (|x0|^2 + d v) - 2 g d), and the
    variance of the SDE's samples follows dV/dv = 2 g V - 1. At weights other than 0 and 1 no diffused
    Gaussian has these scores at all levels, so the bound is loose."""
    x0 = torch.tensor([[0.1, 0.1], [0.3, -0.3], [-1.0, 0.0]], dtype=torch.float64)
    squares = x0.square().sum(1)
    logs = 2 * math.log(LOW), 2 * math.log(HIGH)

    def g(v: float) -> float:
        return weight / (DATA**2 + v) + (1 - weight) / (FOUND**2 + v)

    def excess(log_v: float, square: float) -> float:
        v = math.exp(log_v)
        return 0.5 * v * (g(v) ** 2 * (square + 2 * v) - 4 * g(v))

    def growth(log_v: float, variance: np.ndarray) -> np.ndarray:
        v = math.exp(log_v)
        return v * (2 * g(v) * variance - 1)

    prior = 2 * math.log(HIGH * math.sqrt(2 * math.pi)) + 0.5 * squares / HIGH**2 + 1.0
    integrals = [quad(excess, *logs, args=(square,), limit=200)[0] for square in squares.tolist()]
    exact = prior + torch.tensor(integrals, dtype=torch.float64)
    found, error = bound(gaussian(FOUND), x0, [linear_term(weight=weight, tau_min=0.0)])
    assert bool(((found - exact).abs() < 4 * error).all())

    solved = solve_ivp(growth, logs[::-1], [HIGH**2], method="LSODA", rtol=1e-10, atol=1e-12)
    variance = float(solved.y[0, -1])
    likelihood = 0.5 * (squares + 2 * LOW**2) / variance + math.log(2 * math.pi * variance)
    assert bool((found > likelihood - 4 * error).all())
    assert weight != 3.0 or float((found - likelihood - 4 * error).max()) > 0


def test_the_draws_of_the_bound_lie_in_equal_ranges_of_the_logarithm() -> None:
    """Each draw is at its own fraction of its range."""
    asked = list[float]()

    def shrinks(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        asked.extend(sigma.tolist())
        return 0.5 * x

    z = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    found = nelbo(
        shrinks,
        torch.zeros(1, 2),
        sigma_min=0.25,
        sigma_max=4.0,
        uniforms=torch.tensor([[0.5, 0.25]]),
        normals=[z, z],
    )
    assert asked == pytest.approx([0.5, math.sqrt(2.0)])
    prior = 2 * math.log(4 * math.sqrt(2 * math.pi)) + 1.0
    assert float(found) == pytest.approx(prior + math.log(16.0) * (0.25 * 10 - 2))


def test_bits_per_dimension_count_the_pixel_values_in_a_unit() -> None:
    """For a uniform density over [-1, 1]: 8 bits for 256 values in 2 units, and less if 255 fill them."""
    nats = torch.tensor([3 * math.log(0.5)], dtype=torch.float64)
    assert float(bits_per_dimension(nats, 3, unit=128.0)) == pytest.approx(8.0)
    assert float(bits_per_dimension(nats, 3)) == pytest.approx(1 + math.log2(127.5))


def test_a_boost_is_refused_as_it_acts_in_steps() -> None:
    term = DiscriminatorTerm(exact_log_ratio, DiscriminatorSettings(boost=Boost()))
    with pytest.raises(ValueError, match="without a boost, .* set boost to None"):
        log_likelihood(MODEL.denoiser, drawn(REAL), guidance=[term], **ENDS)


def detached(point: Point) -> tuple[Tensor, None]:
    return -point.x.detach(), None


def test_guidance_that_is_detached_is_refused_and_has_a_bound_all_the_same() -> None:
    term: Any = detached
    with pytest.raises(ValueError, match="of function, term 0 of the guidance: .* do not detach it"):
        log_likelihood(MODEL.denoiser, drawn(REAL), guidance=[term], **ENDS)
    assert (
        nelbo(
            MODEL.denoiser,
            drawn(REAL),
            uniforms=torch.rand(6, 1),
            normals=[drawn(REAL)],
            guidance=[term],
            **ENDS,
        )
        .isfinite()
        .all()
    )


def test_a_denoiser_that_is_detached_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a denoiser that can be differentiated in x"):
        log_likelihood(lambda x, sigma, labels: MODEL.denoiser(x, sigma).detach(), drawn(REAL), **ENDS)


def test_an_operation_that_cannot_be_differentiated_twice_is_named() -> None:
    def attention(y: Tensor, tau: Tensor, class_labels: Tensor | None) -> Tensor:
        tokens = y[:, None, :, None]
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(tokens, tokens, tokens).flatten(1).sum(1)

    with pytest.raises(
        ValueError, match="guidance that can be differentiated twice, .*flash_attention.* is not implemented"
    ):
        log_likelihood(MODEL.denoiser, drawn(REAL), guidance=[DiscriminatorTerm(attention)], **ENDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_min": 0.0}, "expected 0 < sigma_min < sigma_max, found sigma_min=0.0"),
        ({"sigma_max": 0.01}, "expected 0 < sigma_min < sigma_max"),
        ({"rtol": 1e-15}, "expected rtol >= 1e-13"),
        ({"atol": 0.0}, "expected atol > 0"),
        ({"probe": torch.ones(2, 3)}, r"expected a probe like x, \[6, 2\], found \[2, 3\]"),
    ],
)
def test_impossible_numbers_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        log_likelihood(MODEL.denoiser, drawn(REAL), **ENDS | options)


def test_a_bound_needs_a_column_of_uniforms_for_each_draw() -> None:
    with pytest.raises(ValueError, match=r"for n draws, found 1 tensors and \[6, 2\]"):
        nelbo(MODEL.denoiser, drawn(REAL), uniforms=torch.rand(6, 2), normals=[drawn(REAL)], **ENDS)


def test_no_evaluation_reads_a_number_back_from_the_device() -> None:
    loose: dict[str, Any] = {"sigma_min": LOW, "sigma_max": 20.0, "rtol": 1e-2, "atol": 1e-2}
    x = drawn(REAL)
    with ForbidReads():
        log_likelihood(gaussian(FOUND), x, guidance=[linear_term(tau_max=0.5)], **loose)


def test_a_nan_is_told_with_the_noise_level() -> None:
    def broken(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        return MODEL.denoiser(x, sigma) + torch.where(sigma > 2.0, math.nan, 0.0)[:, None]

    with pytest.raises(FloatingPointError, match=r"cannot continue from -log\(sigma\)=-0.6931"):
        log_likelihood(broken, drawn(REAL), **ENDS)
