"""Conversion between noise predictors and denoisers: exact on Gaussians and mixtures, and every form of
network under every form of sampler."""

from __future__ import annotations

import pytest
import torch
from diffusion.device_reads import ForbidReads
from diffusion.mixtures import REAL
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.denoisers import VPDenoiser, epsilon_only, learned_range, predictor_of
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.heun import edm_sigmas, heun
from dgflow.diffusion.times import tau_from_sigma

WHOLE = DiscreteSchedule.of("linear")
LATENTS = noise.standard_normal(1, torch.arange(8), (2,), step=0, draw=noise.LATENT)
SIGMA = torch.tensor([0.01, 0.1, 0.5, 1.0, 2.0, 10.0, 40.0, 80.0], dtype=torch.float64)


def by_sigma(y: Tensor, sigma: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Returns the exact epsilon of data N(0.3, 0.5^2), for a network whose time is sigma itself."""
    sigma = sigma.double()[:, None]
    x = y.double() * (1 + sigma**2).sqrt()
    return sigma / (0.25 + sigma**2) * (x - 0.3), None


def test_the_denoiser_of_an_exact_predictor_is_the_posterior_mean() -> None:
    x = 0.3 + (0.25 + SIGMA[:, None] ** 2).sqrt() * LATENTS
    expected = 0.3 + 0.25 / (0.25 + SIGMA[:, None] ** 2) * (x - 0.3)
    found = VPDenoiser(by_sigma, lambda sigma: sigma)(x, SIGMA)
    assert found.dtype == torch.float64
    # Float32 on the way to the predictor costs 6e-8 of x.
    assert bool(((found - expected).abs() <= 2e-7 * (1 + x.abs())).all())


def test_a_predictor_is_told_its_own_time_for_a_noise_level_and_the_labels_as_given() -> None:
    labels, seen = torch.arange(8), []

    def record(y: Tensor, time: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        assert class_labels is labels and y.dtype == time.dtype == torch.float32
        seen.append(time)
        return y, None

    VPDenoiser(record, lambda sigma: 999 * tau_from_sigma(sigma))(LATENTS, SIGMA, labels)
    torch.testing.assert_close(seen[0], (999 * tau_from_sigma(SIGMA)).float(), rtol=0, atol=0)


def test_a_denoiser_survives_the_way_to_a_predictor_and_back_at_every_level_of_the_schedule() -> None:
    steps = torch.arange(WHOLE.original_num_steps)
    sigma = torch.tensor(WHOLE.sigmas, dtype=torch.float64)
    x = (1 + sigma[:, None]) * noise.standard_normal(2, steps, (2,), step=0)
    found = VPDenoiser(predictor_of(REAL.denoiser, WHOLE), WHOLE.timesteps_from_sigma())(x, sigma)
    error = (found - REAL.denoiser(x, sigma)).abs()
    assert bool((error <= 1e-5 * (1 + sigma[:, None])).all())


def test_a_predictor_on_continuous_time_runs_under_heun_as_the_denoiser_that_it_is_made_of() -> None:
    def by_tau(y: Tensor, tau: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        sigma = torch.expm1(tau.double() * (0.1 + 9.95 * tau.double())).sqrt()
        x = y.double() * (1 + sigma[:, None] ** 2).sqrt()
        return (x - REAL.denoiser(x, sigma)) / sigma[:, None], None

    found = heun(VPDenoiser(by_tau, tau_from_sigma), LATENTS, edm_sigmas(18)).x
    torch.testing.assert_close(found, heun(REAL.denoiser, LATENTS, edm_sigmas(18)).x, rtol=0, atol=1e-4)


def test_learned_range_splits_epsilon_from_v() -> None:
    y = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    epsilon, v = learned_range(lambda y, time, labels: torch.cat([2 * y, 3 * y], dim=1))(
        y, torch.ones(2), None
    )
    assert v is not None and torch.equal(epsilon, 2 * y) and torch.equal(v, 3 * y)


def test_a_network_with_the_wrong_number_of_channels_is_refused_and_the_other_form_named() -> None:
    y = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match="3 for an input of 3: use epsilon_only"):
        learned_range(lambda y, time, labels: y)(y, torch.ones(2), None)
    with pytest.raises(ValueError, match="use learned_range"):
        epsilon_only(lambda y, time, labels: torch.cat([y, y], dim=1))(y, torch.ones(2), None)


def test_a_predictor_of_a_denoiser_has_no_v() -> None:
    assert predictor_of(REAL.denoiser, WHOLE)(LATENTS.float(), torch.full((8,), 500.0), None)[1] is None


def test_no_call_reads_a_number_back_from_the_device() -> None:
    predictor = predictor_of(lambda x, sigma, class_labels: torch.zeros_like(x), WHOLE)
    with ForbidReads():
        heun(VPDenoiser(predictor, WHOLE.timesteps_from_sigma()), LATENTS, edm_sigmas(5))
