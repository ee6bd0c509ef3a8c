"""Noise levels and times: EDM's sigma, linear-VP time tau, cosine time, and how training times are drawn.

Everywhere in dgflow `sigma` is the EDM noise level (x = x0 + sigma * z) and `tau` is the time in [0, 1] of the linear variance-preserving
diffusion dy = -beta/2 y dtau + sqrt(beta) dw with beta(tau) = beta_0 + (beta_1 - beta_0) tau. The two describe the same sample at another
scale: y = x / sqrt(1 + sigma^2), with B(tau) = integral of beta = log(1 + sigma^2). The forms below do not cancel near 0 (log1p, expm1), so
float32 keeps its relative accuracy at every level; the textbook forms lose all of it below tau = 1e-4.

The maps take a tensor (float32 or float64, any shape, any device, no host sync) or a Python float, and return the same kind.
Drawing the random numbers is left to `noise.py`. Sources: Kim et al. 2023 (Discriminator Guidance), appendix A; Nichol and Dhariwal 2021
for the cosine schedule.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor

BETA_0 = 0.1
BETA_1 = 20.0
COSINE_S = 0.008
"""Offset s of the cosine schedule, alpha_bar(t) ~ cos^2((t + s) / (1 + s) * pi / 2)."""

Level = TypeVar("Level", float, Tensor)


def integrated_beta(tau: Level) -> Level:
    """B(tau) = beta_0 tau + (beta_1 - beta_0) tau^2 / 2, which is log(1 + sigma^2)."""
    return tau * (BETA_0 + 0.5 * (BETA_1 - BETA_0) * tau)


def tau_from_sigma(sigma: Level) -> Level:
    """The linear-VP time whose signal-to-noise ratio is that of EDM noise level `sigma` (>= 0); 0.9335 at sigma = 80, 1 at 152.17."""
    # The positive root of B(tau) = log(1 + sigma^2), in the form of the quadratic formula that has no difference in it.
    if isinstance(sigma, Tensor):
        beta = torch.log1p(sigma.square())
        return 2.0 * beta / (BETA_0 + torch.sqrt(BETA_0**2 + 2.0 * (BETA_1 - BETA_0) * beta))
    beta = math.log1p(sigma * sigma)
    return 2.0 * beta / (BETA_0 + math.sqrt(BETA_0**2 + 2.0 * (BETA_1 - BETA_0) * beta))


def sigma_from_tau(tau: Level) -> Level:
    """The EDM noise level of linear-VP time `tau` in [0, 1]: sqrt(exp(B) - 1); 0.0447 at tau = 0.01."""
    if isinstance(tau, Tensor):
        return torch.sqrt(torch.expm1(integrated_beta(tau)))
    return math.sqrt(math.expm1(integrated_beta(tau)))


def mean_std(tau: Level) -> tuple[Level, Level]:
    """(mean, std) of y given x0 at linear-VP time `tau` in [0, 1]: y = mean * x0 + std * z, mean^2 + std^2 = 1."""
    if isinstance(tau, Tensor):
        beta = integrated_beta(tau)
        return torch.exp(-0.5 * beta), torch.sqrt(-torch.expm1(-beta))
    beta = integrated_beta(tau)
    return math.exp(-0.5 * beta), math.sqrt(-math.expm1(-beta))


def cosine_time(tau: Level) -> Level:
    """The cosine-schedule time in [0, 1] with the signal-to-noise ratio of linear-VP time `tau`.

    Only the time that the networks are told changes: both diffusions preserve variance, so their input y is the same. Equal to
    (1 + s) (2 / pi) arccos(sqrt(f0) exp(-B / 2)) - s with f0 = cos^2(s / (1 + s) * pi / 2), in a form that is accurate where arccos is not.
    """
    start = COSINE_S / (1.0 + COSINE_S) * math.pi / 2
    cos_0, sin_0 = math.cos(start), math.sin(start)
    scale = (1.0 + COSINE_S) * (2.0 / math.pi)
    # cos(angle) = cos_0 * mean, hence sin(angle)^2 = 1 - cos_0^2 (1 - std^2) = sin_0^2 + cos_0^2 std^2.
    if isinstance(tau, Tensor):
        mean, std = mean_std(tau)
        return scale * torch.atan2(torch.sqrt(sin_0**2 + (cos_0 * std).square()), cos_0 * mean) - COSINE_S
    mean, std = mean_std(tau)
    return scale * math.atan2(math.hypot(sin_0, cos_0 * std), cos_0 * mean) - COSINE_S


def log_uniform_sigma(u: Tensor, sigma_min: float, sigma_max: float) -> Tensor:
    """sigma with log(sigma) uniform on [log(sigma_min), log(sigma_max)], from `u` uniform on [0, 1].

    With the levels that guidance visits, such as 0.0447 (tau = 0.01) to 80, no training is spent elsewhere: of `importance_tau`'s draws
    32 % lie below tau = 0.01 and 5 % above sigma = 80. Raises ValueError unless 0 < sigma_min < sigma_max.
    """
    if not 0.0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"expected 0 < sigma_min < sigma_max, found sigma_min={sigma_min}, sigma_max={sigma_max}")
    return torch.exp(math.log(sigma_min) + math.log(sigma_max / sigma_min) * u)


def importance_tau(u: Tensor, tau_min: float = 1e-5) -> Tensor:
    """Importance-sampled times in [tau_min, 1]: density proportional to beta / std^2, from `u` uniform on [0, 1] (Kim et al. 2023).

    That density is exactly log(sigma) uniform between the levels of tau_min and of 1, and it is computed so. `importance_tau_published`
    has the same law up to rounding.
    """
    _check_tau_min(tau_min)
    return tau_from_sigma(log_uniform_sigma(u, sigma_from_tau(tau_min), sigma_from_tau(1.0)))


def importance_tau_published(u: Tensor, tau_min: float = 1e-5) -> Tensor:
    """`importance_tau` with the rounding of the published code, which draws in float32: for comparing with it, not for use.

    log(1 - exp(-B)) + B and log(1 + exp(.)) cancel in float32: the bound at tau_min = 1e-5 is off by 0.012 in log(sigma^2), and the
    smallest fifth of the draws takes only some 900 values, with relative errors of up to 10 %. `u` is cast to float32, as is the result.
    """
    _check_tau_min(tau_min)

    def antiderivative(tau: float) -> Tensor:
        beta = BETA_0 * torch.tensor(tau) + (BETA_1 - BETA_0) * torch.tensor(tau) ** 2 / 2
        return torch.log(1.0 - torch.exp(-beta)) + beta

    low, high = antiderivative(tau_min).to(u.device), antiderivative(1.0).to(u.device)
    beta = torch.log(1.0 + torch.exp((high - low) * u.float() + low))
    return (-BETA_0 + torch.sqrt(BETA_0**2 + 2.0 * (BETA_1 - BETA_0) * beta)) / (BETA_1 - BETA_0)


def uniform_tau(u: Tensor, tau_min: float = 1e-5) -> Tensor:
    """Times uniform on [tau_min, 1], from `u` uniform on [0, 1]."""
    _check_tau_min(tau_min)
    return u * (1.0 - tau_min) + tau_min


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """One number a sample, [B], as [B, 1, 1, ...], to broadcast over `like` [B, ...]."""
    return value.reshape(-1, *[1] * (like.ndim - 1))


def _check_tau_min(tau_min: float) -> None:
    if not 0.0 < tau_min < 1.0:
        raise ValueError(f"expected 0 < tau_min < 1, found {tau_min}")
