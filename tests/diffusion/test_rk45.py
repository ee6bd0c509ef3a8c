"""The adaptive solver against scipy's, closed forms of Gaussians, and its guarantees for batches, windows and
failures."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusion.device_reads import ForbidReads
from diffusion.mixtures import MODEL, REAL, exact_log_ratio
from scipy.integrate import solve_ivp
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.guidance import Point
from dgflow.diffusion.guidance_settings import Boost, DiscriminatorSettings
from dgflow.diffusion.rk45 import rk45
from dgflow.diffusion.times import LinearVP, beta, mean_std, sigma_from_tau, tau_from_sigma

LATENTS = noise.standard_normal(4, torch.arange(5), (2,), step=0, draw=noise.LATENT)
LOOSE: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-3, "tau_min": 1e-3}


def gaussian(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
    """The denoiser of data N(0, 0.5^2). The ODE then keeps y / sqrt(0.25 mean^2 + std^2) constant."""
    return x * (0.25 / (0.25 + sigma**2))[:, None]


def std_of_y(tau: float, vp: LinearVP | None = None) -> float:
    mean, std = mean_std(tau, vp) if vp else mean_std(tau)
    return math.hypot(0.5 * mean, std)


class Edges:
    """A term with gradient 1 between two times, which records its evaluations."""

    def __init__(self, *tau_edges: float) -> None:
        self.tau_edges = tau_edges
        self.points: list[Point] = []

    def __call__(self, point: Point) -> tuple[Tensor, None]:
        self.points.append(point)
        tau = tau_from_sigma(point.sigma)
        inside = (tau >= min(self.tau_edges)) & (tau <= max(self.tau_edges))
        return torch.where(inside[:, None], torch.ones_like(point.x), 0.0), None


def scipy_solution(latents: Tensor, tolerance: float, tau_min: float) -> tuple[Tensor, int]:
    """Solves the same ODE of REAL, flattened, by scipy."""

    def slope(tau: float, y: np.ndarray) -> np.ndarray:
        state, sigma = (
            torch.from_numpy(y).reshape(latents.shape),
            torch.full((len(latents),), sigma_from_tau(tau), dtype=torch.float64),
        )
        scale = math.sqrt(1 + float(sigma[0]) ** 2)
        epsilon = (scale * state - REAL.denoiser(scale * state, sigma)) / sigma[:, None]
        return (-0.5 * beta(tau) * (state - epsilon / mean_std(tau)[1])).flatten().numpy()

    solution = solve_ivp(
        slope,
        (1.0, tau_min),
        latents.double().flatten().numpy(),
        method="RK45",
        rtol=tolerance,
        atol=tolerance,
    )
    return torch.from_numpy(solution.y[:, -1]).reshape(latents.shape), solution.nfev


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_with_a_shared_step_it_takes_the_steps_of_scipy(tolerance: float) -> None:
    expected, nfev = scipy_solution(LATENTS, tolerance, 1e-4)
    found = rk45(REAL.denoiser, LATENTS, tau_min=1e-4, rtol=tolerance, atol=tolerance, shared_step=True)
    assert found.nfe == nfev
    torch.testing.assert_close(found.x, expected, rtol=1e-9, atol=1e-9)


def test_every_sample_takes_the_steps_that_scipy_takes_for_it_alone() -> None:
    alone = [scipy_solution(LATENTS[i : i + 1], 1e-5, 1e-4) for i in range(len(LATENTS))]
    found = rk45(REAL.denoiser, LATENTS, tau_min=1e-4)
    torch.testing.assert_close(found.x, torch.cat([solution for solution, _ in alone]), rtol=1e-9, atol=1e-9)
    assert len({nfev for _, nfev in alone}) > 1 and found.nfe == max(nfev for _, nfev in alone)


def test_the_error_falls_with_the_tolerance() -> None:
    exact = LATENTS * std_of_y(1e-5) / std_of_y(1.0)
    for tolerance in (1e-4, 1e-6, 1e-8):
        found = rk45(gaussian, LATENTS, rtol=tolerance, atol=tolerance)
        assert 1e-3 * tolerance < float((found.x - exact).abs().max()) < 10 * tolerance


def test_another_linear_vp_has_its_own_closed_form() -> None:
    vp = LinearVP(0.3, 12.0, variance_0=0.04)
    found = rk45(gaussian, LATENTS, tau_max=0.9, tau_min=0.05, rtol=1e-9, atol=1e-9, vp=vp)
    torch.testing.assert_close(found.x, LATENTS * std_of_y(0.05, vp) / std_of_y(0.9, vp), rtol=1e-7, atol=0)


def test_the_last_denoising_is_the_denoiser_at_the_end() -> None:
    plain, denoised = (rk45(gaussian, LATENTS, tau_min=0.05, denoise_last=last) for last in (False, True))
    mean, std = mean_std(0.05)
    torch.testing.assert_close(
        denoised.x, plain.x / mean * 0.25 / (0.25 + (std / mean) ** 2), rtol=1e-9, atol=0
    )
    assert denoised.nfe == plain.nfe + 1


def test_the_last_denoising_may_be_told_another_time_than_the_end() -> None:
    plain = rk45(gaussian, LATENTS, tau_min=0.05)
    denoised = rk45(gaussian, LATENTS, tau_min=0.05, denoise_last=True, denoise_tau=0.01)
    mean, std = mean_std(0.01)
    torch.testing.assert_close(
        denoised.x, plain.x / mean * 0.25 / (0.25 + (std / mean) ** 2), rtol=1e-9, atol=0
    )
    with pytest.raises(ValueError, match="expected 0 < denoise_tau <= 1, found 0"):
        rk45(gaussian, LATENTS, denoise_last=True, denoise_tau=0.0)


def stiff(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
    """Returns narrow data for samples of class 1, which need many more steps, and wide data for class 0."""
    assert class_labels is not None
    variance = torch.where(class_labels == 1, 1e-4, 0.25)
    return x * (variance / (variance + sigma**2))[:, None]


def test_a_sample_does_not_depend_on_its_batch_and_a_finished_one_does_not_change() -> None:
    labels = torch.tensor([0, 1, 0, 1, 0])
    term = DiscriminatorTerm(exact_log_ratio, DiscriminatorSettings(tau_min=0.1, tau_max=0.9, boost=Boost()))
    whole = rk45(stiff, LATENTS, class_labels=labels, guidance=[term], rtol=1e-4, atol=1e-4)
    needed = []
    for i in range(5):
        alone = rk45(
            stiff, LATENTS[i : i + 1], class_labels=labels[i : i + 1], guidance=[term], rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(alone.x, whole.x[i : i + 1], rtol=0, atol=1e-9)
        assert alone.log_ratio is not None and whole.log_ratio is not None
        torch.testing.assert_close(alone.log_ratio, whole.log_ratio[i : i + 1], rtol=0, atol=1e-5)
        assert alone.evaluations is not None
        assert alone.evaluations.tolist() == [[alone.nfe, alone.guidance_nfe]]
        needed.append([alone.nfe, alone.guidance_nfe])
    assert whole.evaluations is not None and whole.evaluations.tolist() == needed
    assert whole.nfe >= max(needed)[0] > min(needed)[0]


def test_with_a_shared_step_a_sample_depends_on_its_batch() -> None:
    labels = torch.tensor([0, 1, 0, 1, 0])
    whole, wide = (
        rk45(stiff, LATENTS[::n], class_labels=labels[::n], shared_step=True, rtol=1e-4, atol=1e-4)
        for n in (1, 2)
    )
    assert float((whole.x[::2] - wide.x).abs().max()) > 1e-7 and wide.nfe < whole.nfe


@pytest.mark.parametrize("edges", [(0.1, 0.7), (1e-3, 1.0), (0.01, 1 / 3), (0.123456789, 0.98765432)])
@pytest.mark.parametrize("vp", [LinearVP(), LinearVP(0.2, 15.0)], ids=["the paper's", "another"])
def test_no_piece_reaches_over_an_edge(edges: tuple[float, float], vp: LinearVP) -> None:
    """Every evaluation's levels and bounds lie on one side, up to the edge itself, and on the correct side of
    it."""
    term = Edges(*edges)
    rk45(gaussian, LATENTS, guidance=[term], rtol=1e-2, atol=1e-2, tau_max=0.95, tau_min=5e-3, vp=vp)
    sides = []
    for point in term.points:
        low, high = (tau_from_sigma(bound) for bound in point.sigma_bounds)
        assert bool(((point.sigma >= point.sigma_bounds[0]) & (point.sigma <= point.sigma_bounds[1])).all())
        tau = tau_from_sigma(point.sigma)
        inside = (tau >= edges[0]) & (tau <= edges[1])
        assert bool(inside.all()) or not bool(inside.any())
        assert (
            (edges[0] <= low and high <= edges[1])
            if bool(inside.all())
            else (high < edges[0] or low > edges[1])
        )
        sides.append(bool(inside.all()))
    assert sides == sorted(sides) or not sides[-1]
    # 0.95 and 5e-3 in the time of vp.
    top, bottom = (tau_from_sigma(sigma_from_tau(tau, vp)) for tau in (0.95, 5e-3))
    pieces = 1 + sum(bottom < edge < top for edge in edges)
    begins = [b.step for a, b in pairwise(term.points) if a.sigma_bounds != b.sigma_bounds]
    assert begins == [0] * (pieces - 1)


@pytest.mark.parametrize("window", [(0.01, 1.0), (0.2, 0.6)])
def test_no_discriminator_is_evaluated_outside_its_window(window: tuple[float, float]) -> None:
    seen: list[Tensor] = []

    def discriminator(y: Tensor, tau: Tensor, class_labels: Tensor | None) -> Tensor:
        seen.append(tau)
        return y.sum(1)

    term = DiscriminatorTerm(discriminator, DiscriminatorSettings(tau_min=window[0], tau_max=window[1]))
    sample = rk45(gaussian, LATENTS, guidance=[term], **LOOSE)
    tau = torch.cat(seen).double()
    assert float(tau.min()) == pytest.approx(window[0], rel=1e-6) and float(tau.max()) == pytest.approx(
        window[1], rel=1e-6
    )
    assert 0 < sample.guidance_nfe == len(seen) < sample.nfe


def test_stopping_at_edges_takes_fewer_evaluations_than_stepping_across_a_jump() -> None:
    strict: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-8}
    stops, hidden = Edges(0.2, 0.6), Edges(0.2, 0.6)
    known = rk45(gaussian, LATENTS, guidance=[stops], **strict)
    blind = rk45(gaussian, LATENTS, guidance=[lambda point: hidden(point)], **strict)
    torch.testing.assert_close(known.x, blind.x, rtol=0, atol=1e-5)
    assert known.nfe < 0.9 * blind.nfe


def test_the_log_ratio_is_that_of_the_last_state_inside_the_window() -> None:
    term = DiscriminatorTerm(exact_log_ratio, DiscriminatorSettings(weight=0.5, tau_min=0.3))
    whole, upper = (
        rk45(MODEL.denoiser, LATENTS, guidance=[term]),
        rk45(MODEL.denoiser, LATENTS, guidance=[term], tau_min=0.3),
    )
    expected = exact_log_ratio(upper.x, torch.full((5,), 0.3))
    assert whole.log_ratio is not None
    torch.testing.assert_close(whole.log_ratio, expected.double(), rtol=0, atol=1e-5)


def constant(logit: float, slope: float = 1.0):
    """Returns a discriminator with this logit and gradient everywhere."""
    return lambda y, tau, labels: logit + slope * (y.sum(1) - y.sum(1).detach())


def test_a_boost_of_every_attempt_doubles_the_weight_and_one_of_none_does_nothing() -> None:
    plain, double = (
        rk45(
            gaussian,
            LATENTS,
            guidance=[DiscriminatorTerm(constant(-1.0), DiscriminatorSettings(weight=w))],
            **LOOSE,
        )
        for w in (0.3, 0.6)
    )
    boosted = rk45(
        gaussian,
        LATENTS,
        guidance=[
            DiscriminatorTerm(constant(-1.0), DiscriminatorSettings(weight=0.3, boost=Boost(period=1)))
        ],
        **LOOSE,
    )
    real = rk45(
        gaussian,
        LATENTS,
        guidance=[DiscriminatorTerm(constant(1.0), DiscriminatorSettings(weight=0.3, boost=Boost(period=1)))],
        **LOOSE,
    )
    torch.testing.assert_close(boosted.x, double.x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(real.x, plain.x, rtol=1e-12, atol=1e-12)


def test_a_boost_acts_in_whole_attempts_of_its_period() -> None:
    """All seven slopes of an attempt have the same factor: its first is evaluated again, unlike without a
    boost."""
    factors: list[tuple[int, float]] = []
    term = DiscriminatorTerm(constant(-1.0), DiscriminatorSettings(weight=0.3, boost=Boost(period=3)))

    class Spy:
        boost = term.boost

        def __call__(self, point: Point) -> tuple[Tensor | None, Tensor | None]:
            gradient, log_ratio = term(point)
            if gradient is not None:
                factors.append((int(point.step), float(gradient[0, 0] * (1 + point.sigma[0] ** 2).sqrt())))
            return gradient, log_ratio

    rk45(gaussian, LATENTS[:1], guidance=[Spy()], tau_min=0.1, rtol=1e-4, atol=1e-4)
    assert all(factor == pytest.approx(0.6 if step % 3 == 0 else 0.3) for step, factor in factors)
    counts = np.bincount([step for step, _ in factors])
    assert (
        counts[0] == 8 and set(counts[1:]) == {7} and len(counts) > 4
    )  # one more to choose the size of the first step


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_solution_that_cannot_go_on_is_an_error_that_names_time_and_sample(bad: float) -> None:
    def broken(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        spoiled = (torch.arange(len(x)) == 3) & (sigma < sigma_from_tau(0.5))
        return torch.where(spoiled[:, None], bad, gaussian(x, sigma, class_labels))

    with pytest.raises(FloatingPointError, match=r"sample 3 .*tau=0\.5"):
        rk45(broken, LATENTS)


def test_a_network_that_returns_nothing_but_nan_is_found_at_once() -> None:
    calls = []

    def broken(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        calls.append(sigma)
        return torch.full_like(x, math.nan)

    with pytest.raises(FloatingPointError, match="sample 0 .*tau=1:"):
        rk45(broken, LATENTS)
    assert len(calls) == 8


@pytest.mark.parametrize(
    "options",
    [{"tau_min": 0.0}, {"tau_min": 0.5, "tau_max": 0.5}, {"tau_max": 1.5}, {"rtol": 0.0}, {"atol": -1.0}],
)
def test_times_and_tolerances_that_cannot_be_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        rk45(gaussian, LATENTS, **options)


def test_no_evaluation_reads_a_number_back_from_the_device() -> None:
    term = DiscriminatorTerm(constant(-1.0), DiscriminatorSettings(tau_max=0.5, boost=Boost()))
    with ForbidReads():
        rk45(gaussian, LATENTS, guidance=[term], **LOOSE)
