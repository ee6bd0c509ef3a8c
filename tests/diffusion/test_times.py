"""Time maps in numbers of the paper, against high-precision values, and as each other's inverses."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import pytest
import torch

from dgflow.diffusion import times
from dgflow.diffusion.samplers import edm_sigmas

LEVELS = [1e-8, 1e-4, 0.002, 0.0447, 0.5, 1.0, 7.3, 80.0, 152.0]


def exact_tau(sigma: float) -> float:
    """The textbook formula, in 50 digits so that its cancellation does not matter."""
    with localcontext() as context:
        context.prec = 50
        beta_0, slope = Decimal(times.BETA_0), Decimal(times.BETA_1) - Decimal(times.BETA_0)
        beta = (1 + Decimal(sigma) ** 2).ln()
        return float((-beta_0 + (beta_0**2 + 2 * slope * beta).sqrt()) / slope)


@pytest.mark.parametrize("sigma", LEVELS)
def test_tau_is_exact_at_every_level_in_both_precisions_and_for_floats(sigma: float) -> None:
    assert times.tau_from_sigma(sigma) == pytest.approx(exact_tau(sigma), rel=1e-14)
    for dtype, tolerance in ((torch.float32, 5e-7), (torch.float64, 1e-14)):
        level = torch.tensor([sigma], dtype=dtype)
        found = times.tau_from_sigma(level)
        assert found.dtype == dtype and float(found) == pytest.approx(exact_tau(float(level)), rel=tolerance)


@pytest.mark.parametrize("sigma", LEVELS)
def test_sigma_and_tau_are_inverses(sigma: float) -> None:
    assert times.sigma_from_tau(times.tau_from_sigma(sigma)) == pytest.approx(sigma, rel=1e-13)
    level = torch.tensor([sigma], dtype=torch.float64)
    torch.testing.assert_close(times.sigma_from_tau(times.tau_from_sigma(level)), level, rtol=1e-13, atol=0)


def test_the_published_key_values() -> None:
    assert times.tau_from_sigma(80.0) == pytest.approx(0.9335, abs=5e-5)
    assert times.tau_from_sigma(0.002) == pytest.approx(4.0e-5, rel=5e-3)
    assert times.sigma_from_tau(0.01) == pytest.approx(0.0447, abs=5e-5)
    assert times.sigma_from_tau(1e-5) == pytest.approx(1.0005e-3, rel=1e-5)
    assert times.sigma_from_tau(1.0) == pytest.approx(152.17, abs=5e-3)


@pytest.mark.parametrize(("num_steps", "inside"), [(18, 15), (36, 30), (40, 33)])
def test_the_published_window_holds_as_many_steps_as_published(num_steps: int, inside: int) -> None:
    assert sum(times.tau_from_sigma(sigma) >= 0.01 for sigma in edm_sigmas(num_steps)) == inside


@pytest.mark.parametrize("sigma", LEVELS)
def test_mean_and_std_are_those_of_the_scaled_sample(sigma: float) -> None:
    tau = times.tau_from_sigma(torch.tensor([sigma], dtype=torch.float64))
    mean, std = times.mean_std(tau)
    assert float(mean) == pytest.approx(1 / math.hypot(1, sigma), rel=1e-13)
    assert float(std) == pytest.approx(sigma / math.hypot(1, sigma), rel=1e-13)
    assert times.mean_std(float(tau)) == pytest.approx((float(mean), float(std)), rel=1e-15)


def test_std_keeps_its_accuracy_near_0_in_float32() -> None:
    tau = torch.tensor([1e-7, 1e-5, 1e-3])
    torch.testing.assert_close(times.mean_std(tau)[1].double(), times.mean_std(tau.double())[1], rtol=3e-7, atol=0)


def test_cosine_time_has_the_same_signal_to_noise_ratio() -> None:
    tau = torch.linspace(0, 1, 101, dtype=torch.float64)
    time, s = times.cosine_time(tau), times.COSINE_S
    alpha_bar = torch.cos((time + s) / (1 + s) * math.pi / 2) ** 2 / math.cos(s / (1 + s) * math.pi / 2) ** 2
    torch.testing.assert_close(alpha_bar, times.mean_std(tau)[0] ** 2, rtol=1e-10, atol=1e-14)
    assert float(time[0]) == pytest.approx(0, abs=1e-15) and times.cosine_time(0.37) == pytest.approx(float(time[37]), rel=1e-14)


def test_importance_times_have_density_beta_over_variance() -> None:
    """d u / d tau of the inverse map is proportional to beta / std^2, with the published constant Z = 23.864."""
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64, requires_grad=True)
    tau = times.importance_tau(u)
    (slope,) = torch.autograd.grad(tau.sum(), u)
    tau = tau.detach()
    beta = times.BETA_0 + (times.BETA_1 - times.BETA_0) * tau
    z = slope * beta / times.mean_std(tau)[1] ** 2
    torch.testing.assert_close(z, torch.full_like(z, 23.864), rtol=2e-5, atol=0)


def test_importance_times_have_the_published_quantiles() -> None:
    u = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    tau = times.importance_tau(u)
    assert (float(tau[0]), float(tau[-1])) == pytest.approx((1e-5, 1.0), rel=1e-12)
    assert float(tau.median()) == pytest.approx(0.114, abs=5e-4)
    assert float((tau < 0.01).double().mean()) == pytest.approx(0.318, abs=5e-4)
    assert float((tau > times.tau_from_sigma(80.0)).double().mean()) == pytest.approx(0.054, abs=5e-4)


def test_the_published_rounding_of_importance_times_is_coarse_and_ours_is_not() -> None:
    u = torch.linspace(0, 1, 200_001)[:40_000]
    published, ours = times.importance_tau_published(u), times.importance_tau(u)
    assert len(published.unique()) < 1000 and len(ours.unique()) > 30_000
    assert float((published / ours.double() - 1).abs().max()) > 0.05
    torch.testing.assert_close(published, ours, rtol=0.15, atol=0)


def test_log_uniform_sigma_stays_in_its_range() -> None:
    sigma = times.log_uniform_sigma(torch.linspace(0, 1, 5, dtype=torch.float64), 0.05, 80.0)
    expected = 0.05 * 1600 ** torch.linspace(0, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(sigma, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (2.0, 1.0), (1.0, math.inf), (math.nan, 1.0)])
def test_levels_without_a_logarithmic_range_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="sigma_min < sigma_max"):
        times.log_uniform_sigma(torch.tensor([0.5]), *bounds)


@pytest.mark.parametrize("draw", [times.importance_tau, times.importance_tau_published, times.uniform_tau])
def test_a_tau_min_outside_0_to_1_is_refused(draw) -> None:
    with pytest.raises(ValueError, match="tau_min"):
        draw(torch.tensor([0.5]), 0.0)
