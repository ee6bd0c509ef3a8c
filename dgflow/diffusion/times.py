"""Noise levels and times: EDM's sigma, linear-VP time tau, cosine time, and training times.

Everywhere in dgflow `sigma` is the EDM noise level (x = x0 + sigma * z) and `tau` is the time in [0, 1] of
the linear variance-preserving diffusion dy = -beta/2 y dtau + sqrt(beta) dw with beta(tau) = beta_0 + (beta_1
- beta_0) tau. Both describe the same sample at different scales: y = x / sqrt(1 + sigma^2), with B(tau) =
integral of beta = log(1 + sigma^2). The formulas below avoid cancellation near 0 (log1p, expm1), so float32
keeps its relative accuracy at every level; the textbook formulas lose all accuracy below tau = 1e-4. Windows,
switches and discriminators refer to `LINEAR_VP`; a backbone trained with other betas passes its own `vp`.

The maps take a tensor (any shape, any device, no host sync) or a Python float, and return the same kind.
Sources: Kim et al. 2023 (Discriminator Guidance), appendix A; Nichol and Dhariwal 2021 (cosine schedule).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from dgflow.diffusion.linear_vp import LINEAR_VP, LinearVP

COSINE_S = 0.008
"""Offset s of the cosine schedule, alpha_bar(t) ~ cos^2((t + s) / (1 + s) * pi / 2)."""


Level = TypeVar("Level", float, Tensor)

TimeMap = Callable[[Tensor], Tensor]
"""Noise levels sigma [B], float64 -> a network's time [B], in the unit of its training."""


def beta(tau: Level, vp: LinearVP = LINEAR_VP) -> Level:
    """beta(tau), the rate of adding noise."""
    return vp.beta_0 + vp.slope * tau


def integrated_beta(tau: Level, vp: LinearVP = LINEAR_VP) -> Level:
    """B(tau) = beta_0 tau + (beta_1 - beta_0) tau^2 / 2, which is log(1 + sigma^2)."""
    return tau * (vp.beta_0 + 0.5 * vp.slope * tau) + vp.start


def tau_from_integrated_beta(beta: Level, vp: LinearVP = LINEAR_VP) -> Level:
    """The time tau at which B(tau) = `beta`; NaN or negative below B(0)."""
    # The positive root of a quadratic equation, in the form without cancellation.
    grown = beta - vp.start
    square = vp.beta_0**2 + 2.0 * vp.slope * grown
    return 2.0 * grown / (vp.beta_0 + _library(square).sqrt(square))


def tau_from_sigma(sigma: Level, vp: LinearVP = LINEAR_VP) -> Level:
    """The linear-VP time whose signal-to-noise ratio is that of EDM noise level `sigma` (>= 0); 0.9335 at
    sigma = 80, 1 at 152.17."""
    return tau_from_integrated_beta(_library(sigma).log1p(sigma * sigma), vp)


def sigma_from_tau(tau: Level, vp: LinearVP = LINEAR_VP) -> Level:
    """The EDM noise level of linear-VP time `tau` in [0, 1]: sqrt(exp(B) - 1); 0.0447 at tau = 0.01."""
    library = _library(tau)
    return library.sqrt(library.expm1(integrated_beta(tau, vp)))


def mean_std(tau: Level, vp: LinearVP = LINEAR_VP) -> tuple[Level, Level]:
    """(mean, std) of y given x0 at linear-VP time `tau` in [0, 1]; mean^2 + std^2 = 1."""
    library, total = _library(tau), integrated_beta(tau, vp)
    return library.exp(-0.5 * total), library.sqrt(-library.expm1(-total))


def cosine_time(tau: Level, s: float = COSINE_S, vp: LinearVP = LINEAR_VP) -> Level:
    """The cosine-schedule time in [0, 1] with the signal-to-noise ratio of linear-VP time `tau`.

    Both diffusions preserve variance, so a network's input y is unchanged and only its time differs. Equal to
    (1 + s) (2 / pi) arccos(sqrt(f0) exp(-B / 2)) - s with f0 = cos^2(s / (1 + s) * pi / 2), in a form that is
    accurate where arccos is not.
    """
    start = s / (1.0 + s) * math.pi / 2
    cos_0, sin_0 = math.cos(start), math.sin(start)
    scale = (1.0 + s) * (2.0 / math.pi)
    # cos(angle) = cos_0 * mean, hence sin(angle)^2 = 1 - cos_0^2 (1 - std^2) = sin_0^2 + cos_0^2 std^2.
    library, (mean, std) = _library(tau), mean_std(tau, vp)
    return scale * library.atan2(library.sqrt(sin_0**2 + (cos_0 * std) ** 2), cos_0 * mean) - s


def cosine_from_sigma(sigma: Level, s: float = COSINE_S) -> Level:
    """The cosine-schedule time in [0, 1] of EDM noise level `sigma`."""
    return cosine_time(tau_from_sigma(sigma), s)


def log_uniform_sigma(u: Tensor, sigma_min: float, sigma_max: float) -> Tensor:
    """sigma with log(sigma) uniform on [log(sigma_min), log(sigma_max)], from `u` uniform on [0, 1].

    If the bounds are the levels at which guidance acts, such as 0.0447 (tau = 0.01) to 80, no training is
    spent elsewhere. Of the draws of `importance_tau`, 32 % lie below tau = 0.01 and 5 % above sigma = 80.
    Raises ValueError unless 0 < sigma_min < sigma_max.
    """
    if not 0.0 < sigma_min < sigma_max < math.inf:
        raise ValueError(
            f"expected 0 < sigma_min < sigma_max, found sigma_min={sigma_min}, sigma_max={sigma_max}"
        )
    return torch.exp(math.log(sigma_min) + math.log(sigma_max / sigma_min) * u)


def importance_tau(u: Tensor, tau_min: float = 1e-5, vp: LinearVP = LINEAR_VP) -> Tensor:
    """Importance-sampled times in [tau_min, 1]: density proportional to beta / std^2, from `u` uniform on [0,
    1] (Kim et al. 2023).

    This density equals log(sigma) uniform between the levels of tau_min and of 1, and is computed that way.
    """
    _check_tau_min(tau_min)
    return tau_from_sigma(log_uniform_sigma(u, sigma_from_tau(tau_min, vp), sigma_from_tau(1.0, vp)), vp)


def uniform_tau(u: Tensor, tau_min: float = 1e-5) -> Tensor:
    """Times uniform on [tau_min, 1], from `u` uniform on [0, 1]."""
    _check_tau_min(tau_min)
    return u * (1.0 - tau_min) + tau_min


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """Reshape one number per sample, [B], to [B, 1, 1, ...], to broadcast over `like` [B, ...]."""
    return value.reshape(-1, *[1] * (like.ndim - 1))


def _library(value: float | Tensor) -> Any:
    """The module, math or torch, whose functions take `value`."""
    return torch if isinstance(value, Tensor) else math


def _check_tau_min(tau_min: float) -> None:
    if not 0.0 < tau_min < 1.0:
        raise ValueError(f"expected 0 < tau_min < 1, found {tau_min}")
