"""Time maps in numbers of the paper, against high-precision values, and as inverses of each other."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import pytest
import torch
from diffusion.published import importance_tau_published
from diffusion.sde import Weighting, lsgm_times, soft_truncation_tau

from dgflow.diffusion import times
from dgflow.diffusion.heun import edm_sigmas

LEVELS = [1e-8, 1e-4, 0.002, 0.0447, 0.5, 1.0, 7.3, 80.0, 152.0]


def exact_tau(sigma: float) -> float:
    """Computes the textbook formula in 50 digits, so that its cancellation does not matter."""
    with localcontext() as context:
        context.prec = 50
        beta_0, slope = (
            Decimal(times.LINEAR_VP.beta_0),
            Decimal(times.LINEAR_VP.beta_1) - Decimal(times.LINEAR_VP.beta_0),
        )
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
    torch.testing.assert_close(
        times.mean_std(tau)[1].double(), times.mean_std(tau.double())[1], rtol=3e-7, atol=0
    )


def test_cosine_time_has_the_same_signal_to_noise_ratio() -> None:
    tau = torch.linspace(0, 1, 101, dtype=torch.float64)
    time, s = times.cosine_time(tau), times.COSINE_S
    alpha_bar = torch.cos((time + s) / (1 + s) * math.pi / 2) ** 2 / math.cos(s / (1 + s) * math.pi / 2) ** 2
    torch.testing.assert_close(alpha_bar, times.mean_std(tau)[0] ** 2, rtol=1e-10, atol=1e-14)
    assert float(time[0]) == pytest.approx(0, abs=1e-15) and times.cosine_time(0.37) == pytest.approx(
        float(time[37]), rel=1e-14
    )


def test_importance_times_have_density_beta_over_variance() -> None:
    """d u / d tau of the inverse map is proportional to beta / std^2, with the published Z = 23.864."""
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64, requires_grad=True)
    tau = times.importance_tau(u)
    (slope,) = torch.autograd.grad(tau.sum(), u)
    tau = tau.detach()
    beta = times.beta(tau)
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
    published, ours = importance_tau_published(u), times.importance_tau(u)
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


@pytest.mark.parametrize("draw", [times.importance_tau, times.uniform_tau])
def test_a_tau_min_outside_0_to_1_is_refused(draw) -> None:
    with pytest.raises(ValueError, match="tau_min"):
        draw(torch.tensor([0.5]), 0.0)


OTHER = times.LinearVP(0.3, 12.0, variance_0=0.04)


def test_another_linear_vp_has_inverse_maps_and_its_noise_at_time_0() -> None:
    tau = torch.linspace(0.0, 1.0, 21, dtype=torch.float64)
    torch.testing.assert_close(
        times.tau_from_sigma(times.sigma_from_tau(tau, OTHER), OTHER), tau, rtol=1e-12, atol=1e-15
    )
    mean, std = times.mean_std(tau, OTHER)
    torch.testing.assert_close(mean**2 + std**2, torch.ones_like(tau), rtol=1e-14, atol=0)
    assert float(std[0] ** 2) == pytest.approx(0.04) and float(mean[-1] ** 2) == pytest.approx(
        0.96 * math.exp(-0.3 - 11.7 / 2)
    )


@pytest.mark.parametrize(
    "numbers", [(0.0, 20.0), (20.0, 0.1), (0.1, math.inf), (0.1, 20.0, 1.0), (0.1, math.nan)]
)
def test_a_diffusion_that_cannot_be_is_refused(numbers: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="beta_0 < beta_1"):
        times.LinearVP(*numbers)


@pytest.mark.parametrize("k", [0.0, 0.8, 1.0, 1.0 + 1e-9, 2.0])
def test_soft_truncation_draws_powers_of_time(k: float) -> None:
    """The distribution function is the integral of tau^-k, normalised."""
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    tau = soft_truncation_tau(u, k, 1e-4)
    assert (float(tau[0]), float(tau[-1])) == pytest.approx((1e-4, 1.0), rel=1e-9)
    share = (
        (tau / 1e-4).log() / math.log(1e4)
        if abs(k - 1) < 1e-6
        else (1e-4 ** (1 - k) - tau ** (1 - k)) / (1e-4 ** (1 - k) - 1)
    )
    torch.testing.assert_close(share, u, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("weighting", ["likelihood", "unweighted", "reweighted"])
@pytest.mark.parametrize("vp", [times.LINEAR_VP, OTHER], ids=["the paper's", "another"])
def test_lsgm_s_importance_weights_have_the_integral_of_the_plain_ones(
    weighting: Weighting, vp: times.LinearVP
) -> None:
    """The mean over u of w(tau) / r(tau) f(tau) is the integral of w f, whatever r: with f the loss of a
    standard normal prior."""
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    for kind in (1, 2):
        means = []
        for importance, length in ((True, 1.0), (False, 0.99)):
            drawn = lsgm_times(u, weighting, importance=importance, tau_min=0.01, vp=vp)
            means.append(length * float((drawn[kind] * times.mean_std(drawn.tau, vp)[0] ** 2).mean()))
        assert means[0] == pytest.approx(means[1], rel=1e-5)


@pytest.mark.parametrize("weighting", ["likelihood", "unweighted", "reweighted"])
def test_lsgm_s_importance_leaves_no_variance_for_a_standard_normal_prior(weighting: Weighting) -> None:
    drawn = lsgm_times(torch.linspace(0, 1, 11), weighting, importance=True)
    loss = drawn.weight * times.mean_std(drawn.tau)[0] ** 2
    torch.testing.assert_close(loss, loss[:1].expand_as(loss), rtol=1e-6, atol=0)


def test_training_times_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="importance=False"):
        lsgm_times(torch.tensor([0.5]), "rescaled", importance=True)
    with pytest.raises(ValueError, match="tau_min"):
        lsgm_times(torch.tensor([0.5]), "likelihood", importance=True, tau_min=0.0)
    with pytest.raises(ValueError, match="tau_min"):
        soft_truncation_tau(torch.tensor([0.5]), 1.0, 0.0)
