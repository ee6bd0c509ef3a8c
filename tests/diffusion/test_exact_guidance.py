"""Every sampler with the exact scores of MODEL and the exact ratio to REAL: guided samples have REAL's
distribution, at weight 1 only.

Also theorem 2 of Kim et al. 2023 on the same pair of mixtures, by quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from diffusion.mixtures import MODEL, REAL, Mixture, exact_log_ratio
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.ablation import ablation, ablation_sigmas
from dgflow.diffusion.ddpm import ddim, ddpm
from dgflow.diffusion.denoisers import VPDenoiser, predictor_of
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm, log_ratio_and_gradient
from dgflow.diffusion.guidance import GuidanceTerm
from dgflow.diffusion.guidance_settings import DiscriminatorSettings
from dgflow.diffusion.heun import edm_sigmas, heun
from dgflow.diffusion.rk45 import rk45
from dgflow.diffusion.samplers import Denoiser, Predictor
from dgflow.diffusion.times import sigma_from_tau, tau_from_sigma

INDEX = torch.arange(1500)
LATENTS = noise.standard_normal(9, INDEX, (2,), step=0, draw=noise.LATENT)
SCHEDULE = DiscreteSchedule.of("linear", respacing="100")

Guided = Callable[[Denoiser, Sequence[GuidanceTerm]], Tensor]


def normals(step: int) -> Tensor:
    return noise.standard_normal(9, INDEX, (2,), step=step, draw=noise.CHURN)


def as_predictor(denoiser: Denoiser) -> Predictor:
    """Returns the output of a variance-preserving network of the same exact scores; float64."""

    def predict(y: Tensor, tau: Tensor, class_labels: Tensor | None) -> tuple[Tensor, None]:
        sigma = sigma_from_tau(tau.double())[:, None]
        x = y.double() * (1 + sigma**2).sqrt()
        return (x - denoiser(x, sigma[:, 0], class_labels)) / sigma, None

    return predict


def discrete(denoiser: Denoiser) -> Predictor:
    return predictor_of(denoiser, SCHEDULE)


VP, VE, EDM = ablation_sigmas(60, "vp"), ablation_sigmas(60, "ve"), edm_sigmas(40)
LOOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
SAMPLERS: dict[str, Guided] = {
    "heun": lambda denoiser, terms: heun(denoiser, LATENTS, EDM, guidance=terms).x,
    "heun of a noise predictor": lambda denoiser, terms: (
        heun(VPDenoiser(as_predictor(denoiser), tau_from_sigma), LATENTS, EDM, guidance=terms).x
    ),
    "heun with churn": lambda denoiser, terms: (
        heun(denoiser, LATENTS, EDM, guidance=terms, churn_noise=normals, S_churn=10.0).x
    ),
    "ablation vp": lambda denoiser, terms: (
        ablation(denoiser, LATENTS, VP, schedule="vp", scaling="vp", guidance=terms).x
    ),
    "ablation ve": lambda denoiser, terms: (
        ablation(denoiser, LATENTS, VE, schedule="ve", alpha=0.7, guidance=terms).x
    ),
    "ablation euler": lambda denoiser, terms: (
        ablation(denoiser, LATENTS, ablation_sigmas(120), solver="euler", guidance=terms).x
    ),
    "rk45": lambda denoiser, terms: rk45(denoiser, LATENTS, guidance=terms, **LOOSE).x,
    "rk45 shared": lambda denoiser, terms: (
        rk45(denoiser, LATENTS, guidance=terms, shared_step=True, **LOOSE).x
    ),
    "ddim": lambda denoiser, terms: (
        ddim(discrete(denoiser), LATENTS, SCHEDULE, guidance=terms, clip_denoised=False).x
    ),
    "ddpm": lambda denoiser, terms: (
        ddpm(discrete(denoiser), LATENTS, SCHEDULE, noise=normals, guidance=terms, clip_denoised=False).x
    ),
}


def term(weight: float, tau_min: float = 0.0) -> DiscriminatorTerm:
    return DiscriminatorTerm(
        exact_log_ratio, DiscriminatorSettings(weight=weight, second_order_weight=weight, tau_min=tau_min)
    )


def mean_distance(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b).mean()


@cache
def real_samples() -> tuple[Tensor, Tensor]:
    """Returns (samples of REAL, their mean distance from each other)."""
    count = 3000
    x = REAL.draw(
        noise.uniform(5, torch.arange(count), (), step=0),
        noise.standard_normal(5, torch.arange(count), (2,), step=1),
    )
    return x, mean_distance(x, x) * count / (count - 1)


def energy_distance(x: Tensor) -> float:
    """Returns the energy distance from samples of REAL; 0 for the same distribution, up to the noise of
    either, +-0.003 here."""
    real, spread = real_samples()
    return float(2 * mean_distance(x, real) - mean_distance(x, x) * len(x) / (len(x) - 1) - spread)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_the_exact_ratio_at_weight_1_gives_the_data_and_at_0_and_2_does_not(sampler: Guided) -> None:
    """The target is real^w model^(1 - w): at 0 the model; at 2 the overshoot is about as large."""
    distance = {
        weight: energy_distance(sampler(MODEL.denoiser, [term(weight)])) for weight in (0.0, 1.0, 2.0)
    }
    assert abs(distance[1.0]) < 0.006 and distance[0.0] > 0.1 and distance[2.0] > 0.03


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "ddpm"])
def test_guided_paths_are_those_of_the_data_s_own_denoiser(name: str) -> None:
    """The same latents and noise give the same samples.

    DDPM moves its mean by the variance times the gradient, which agrees with a change of the score only for
    small steps.
    """
    right = SAMPLERS[name](REAL.denoiser, [])
    found = SAMPLERS[name](MODEL.denoiser, [term(1.0)])
    assert float((found - right).abs().max()) < 2e-2
    assert float((SAMPLERS[name](MODEL.denoiser, []) - right).abs().mean()) > 0.2


@pytest.mark.parametrize("name", ["heun", "ablation vp", "rk45"])
def test_the_published_window_leaves_out_next_to_nothing(name: str) -> None:
    """Below tau = 0.01, sigma = 0.045, mixtures of deviation 0.3 hardly move: the distance stays within the
    noise."""
    windowed = SAMPLERS[name](MODEL.denoiser, [term(1.0, tau_min=0.01)])
    late = SAMPLERS[name](MODEL.denoiser, [term(1.0, tau_min=0.5)])
    assert (
        abs(energy_distance(windowed))
        < 0.006
        < 0.02
        < energy_distance(late)
        < 0.9 * energy_distance(SAMPLERS[name](MODEL.denoiser, []))
    )


def grid(sigma: float, of: Mixture) -> tuple[Tensor, Tensor]:
    """Returns (points [n, 2], probability of each under `of` noised to sigma) of a square lattice wide enough
    for both mixtures."""
    reach = 1.5 + 6.5 * math.hypot(0.35, sigma)
    axis = torch.linspace(-reach, reach, 101, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    density = of.log_density(points, torch.full((len(points),), sigma, dtype=torch.float64)).exp()
    return points, density * (axis[1] - axis[0]) ** 2


WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0)


def gain_densities(sigma: float) -> Tensor:
    """Returns E_real[|s_real - s_model|^2 - |s_real - s_model - weight * gradient|^2] for each weight; the
    gradient is that of guidance."""
    x, probability = grid(sigma, REAL)
    levels = torch.full((len(x),), sigma, dtype=torch.float64)
    error = (REAL.denoiser(x, levels) - MODEL.denoiser(x, levels)) / sigma**2
    _, gradient = log_ratio_and_gradient(exact_log_ratio, x, levels, None)
    differences = [error.square().sum(1) - (error - weight * gradient).square().sum(1) for weight in WEIGHTS]
    return torch.stack([(probability * difference).sum() for difference in differences])


@cache
def gains() -> dict[float, float]:
    """Returns theorem 2 for each weight: half the integral of g^2 = 2 sigma over sigma, by Simpson's rule in
    log(sigma), from 0.003 to 300."""
    logs = torch.linspace(math.log(0.003), math.log(300.0), 61, dtype=torch.float64)
    values = torch.stack([math.exp(2 * log) * gain_densities(math.exp(log)) for log in logs.tolist()])
    simpson = values[0] + values[-1] + 4 * values[1::2].sum(0) + 2 * values[2:-1:2].sum(0)
    return dict(zip(WEIGHTS, (simpson * (logs[1] - logs[0]) / 3).tolist(), strict=True))


def test_the_divergence_is_the_integral_of_the_score_error() -> None:
    """KL(real || model) = integral of sigma * E_real |s_real - s_model|^2: theorem 2 with equality, since
    both become one Gaussian."""
    x, probability = grid(0.0, REAL)
    sigma = torch.zeros(len(x), dtype=torch.float64)
    divergence = float((probability * (REAL.log_density(x, sigma) - MODEL.log_density(x, sigma))).sum())
    assert float(probability.sum()) == pytest.approx(1.0, abs=1e-6)
    assert gains()[1.0] == pytest.approx(divergence, rel=2e-3)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_gain_is_a_parabola_in_the_weight(weight: float) -> None:
    """The gain is w (2 - w) times the divergence: three quarters of it at 1/2 and 3/2, and nothing at 2."""
    assert gains()[weight] == pytest.approx(weight * (2 - weight) * gains()[1.0], abs=1e-4)
