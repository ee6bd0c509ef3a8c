"""Noise levels and times: EDM's sigma, linear-VP time tau, cosine time, and how training times are drawn.

Everywhere in dgflow `sigma` is the EDM noise level (x = x0 + sigma * z) and `tau` is the time in [0, 1] of
the linear variance-preserving diffusion dy = -beta/2 y dtau + sqrt(beta) dw with beta(tau) = beta_0 + (beta_1
- beta_0) tau. The two describe the same sample at another scale: y = x / sqrt(1 + sigma^2), with B(tau) =
integral of beta = log(1 + sigma^2). The forms below do not cancel near 0 (log1p, expm1), so float32 keeps its
relative accuracy at every level; the textbook forms lose all of it below tau = 1e-4. Windows, switches and
discriminators mean the linear VP of the paper, `LINEAR_VP`; a backbone that was trained with other betas
passes its own as `vp`.

The maps take a tensor (float32 or float64, any shape, any device, no host sync) or a Python float, and return
the same kind. Drawing the random numbers is left to `noise.py`. Sources: Kim et al. 2023 (Discriminator
Guidance), appendix A; Nichol and Dhariwal 2021 for the cosine schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

COSINE_S = 0.008
"""Offset s of the cosine schedule, alpha_bar(t) ~ cos^2((t + s) / (1 + s) * pi / 2)."""


@dataclass(frozen=True)
class LinearVP:
    """A linear variance-preserving diffusion: beta(tau) = beta_0 + (beta_1 - beta_0) tau.

    variance_0 is the variance of the noise that is there at tau = 0 already (LSGM's sigma2_0). It only shifts
    B, by -log(1 - variance_0), if x0 is measured in units of 1 / sqrt(1 - variance_0), as is done here: then
    y = mean * x0 + std * z with mean^2 + std^2 = 1 holds.
    """

    beta_0: float = 0.1
    beta_1: float = 20.0
    variance_0: float = 0.0

    def __post_init__(self) -> None:
        if not (0.0 < self.beta_0 < self.beta_1 < math.inf and 0.0 <= self.variance_0 < 1.0):
            raise ValueError(f"expected 0 < beta_0 < beta_1 and 0 <= variance_0 < 1, found {self}")

    @property
    def slope(self) -> float:
        return self.beta_1 - self.beta_0

    @property
    def start(self) -> float:
        """B(0)."""
        return -math.log1p(-self.variance_0)


LINEAR_VP = LinearVP()
"""The one of score_sde, LSGM and Kim et al. 2023."""

Level = TypeVar("Level", float, Tensor)

TimeMap = Callable[[Tensor], Tensor]
"""Noise levels sigma [B], float64 -> the time [B] that a network is told for them, in the unit that it was
trained with."""


def beta(tau: Level, vp: LinearVP = LINEAR_VP) -> Level:
    """beta(tau), the rate at which noise is mixed in."""
    return vp.beta_0 + vp.slope * tau


def integrated_beta(tau: Level, vp: LinearVP = LINEAR_VP) -> Level:
    """B(tau) = beta_0 tau + (beta_1 - beta_0) tau^2 / 2, which is log(1 + sigma^2)."""
    return tau * (vp.beta_0 + 0.5 * vp.slope * tau) + vp.start


def tau_from_integrated_beta(beta: Level, vp: LinearVP = LINEAR_VP) -> Level:
    """The time tau at which B(tau) = `beta`; NaN or negative below B(0)."""
    # The positive root of a quadratic equation, in the form that has no difference in it.
    grown = beta - vp.start
    square = vp.beta_0**2 + 2.0 * vp.slope * grown
    return (
        2.0 * grown / (vp.beta_0 + (torch.sqrt(square) if isinstance(square, Tensor) else math.sqrt(square)))
    )


def tau_from_sigma(sigma: Level, vp: LinearVP = LINEAR_VP) -> Level:
    """The linear-VP time whose signal-to-noise ratio is that of EDM noise level `sigma` (>= 0); 0.9335 at
    sigma = 80, 1 at 152.17."""
    if isinstance(sigma, Tensor):
        return tau_from_integrated_beta(torch.log1p(sigma.square()), vp)
    return tau_from_integrated_beta(math.log1p(sigma * sigma), vp)


def sigma_from_tau(tau: Level, vp: LinearVP = LINEAR_VP) -> Level:
    """The EDM noise level of linear-VP time `tau` in [0, 1]: sqrt(exp(B) - 1); 0.0447 at tau = 0.01."""
    if isinstance(tau, Tensor):
        return torch.sqrt(torch.expm1(integrated_beta(tau, vp)))
    return math.sqrt(math.expm1(integrated_beta(tau, vp)))


def mean_std(tau: Level, vp: LinearVP = LINEAR_VP) -> tuple[Level, Level]:
    """(mean, std) of y given x0 at linear-VP time `tau` in [0, 1]: y = mean * x0 + std * z, mean^2 + std^2 =
    1."""
    if isinstance(tau, Tensor):
        total = integrated_beta(tau, vp)
        return torch.exp(-0.5 * total), torch.sqrt(-torch.expm1(-total))
    total = integrated_beta(tau, vp)
    return math.exp(-0.5 * total), math.sqrt(-math.expm1(-total))


def cosine_time(tau: Level, s: float = COSINE_S, vp: LinearVP = LINEAR_VP) -> Level:
    """The cosine-schedule time in [0, 1] with the signal-to-noise ratio of linear-VP time `tau`.

    Only the time that the networks are told changes: both diffusions preserve variance, so their input y is
        the same. Equal to
    (1 + s) (2 / pi) arccos(sqrt(f0) exp(-B / 2)) - s with f0 = cos^2(s / (1 + s) * pi / 2), in a form that is
        accurate where arccos is not.
    """
    start = s / (1.0 + s) * math.pi / 2
    cos_0, sin_0 = math.cos(start), math.sin(start)
    scale = (1.0 + s) * (2.0 / math.pi)
    # cos(angle) = cos_0 * mean, hence sin(angle)^2 = 1 - cos_0^2 (1 - std^2) = sin_0^2 + cos_0^2 std^2.
    if isinstance(tau, Tensor):
        mean, std = mean_std(tau, vp)
        return scale * torch.atan2(torch.sqrt(sin_0**2 + (cos_0 * std).square()), cos_0 * mean) - s
    mean, std = mean_std(tau, vp)
    return scale * math.atan2(math.hypot(sin_0, cos_0 * std), cos_0 * mean) - s


def cosine_from_sigma(sigma: Level, s: float = COSINE_S) -> Level:
    """The cosine-schedule time in [0, 1] of EDM noise level `sigma`."""
    return cosine_time(tau_from_sigma(sigma), s)


def log_uniform_sigma(u: Tensor, sigma_min: float, sigma_max: float) -> Tensor:
    """sigma with log(sigma) uniform on [log(sigma_min), log(sigma_max)], from `u` uniform on [0, 1].

    With the levels that guidance visits, such as 0.0447 (tau = 0.01) to 80, no training is spent elsewhere:
    of `importance_tau`'s draws 32 % lie below tau = 0.01 and 5 % above sigma = 80. Raises ValueError unless 0
    < sigma_min < sigma_max.
    """
    if not 0.0 < sigma_min < sigma_max < math.inf:
        raise ValueError(
            f"expected 0 < sigma_min < sigma_max, found sigma_min={sigma_min}, sigma_max={sigma_max}"
        )
    return torch.exp(math.log(sigma_min) + math.log(sigma_max / sigma_min) * u)


def importance_tau(u: Tensor, tau_min: float = 1e-5, vp: LinearVP = LINEAR_VP) -> Tensor:
    """Importance-sampled times in [tau_min, 1]: density proportional to beta / std^2, from `u` uniform on [0,
    1] (Kim et al. 2023).

    That density is exactly log(sigma) uniform between the levels of tau_min and of 1, and it is computed so.
    `importance_tau_published` has the same law up to rounding.
    """
    _check_tau_min(tau_min)
    return tau_from_sigma(log_uniform_sigma(u, sigma_from_tau(tau_min, vp), sigma_from_tau(1.0, vp)), vp)


def importance_tau_published(u: Tensor, tau_min: float = 1e-5, vp: LinearVP = LINEAR_VP) -> Tensor:
    """`importance_tau` with the rounding of the published code, which draws in float32: for comparing with
    it, not for use.

    log(1 - exp(-B)) + B and log(1 + exp(.)) cancel in float32: the bound at tau_min = 1e-5 is off by 0.012 in
    log(sigma^2), and the smallest fifth of the draws takes only some 900 values, with relative errors of up
    to 10 %. `u` is cast to float32, as is the result.
    """
    low, high = (bound.to(u.device) for bound in importance_range_published(tau_min, vp))
    total = torch.log(1.0 + torch.exp((high - low) * u.float() + low))
    return (-vp.beta_0 + torch.sqrt(vp.beta_0**2 + 2.0 * vp.slope * total)) / vp.slope


def importance_range_published(tau_min: float = 1e-5, vp: LinearVP = LINEAR_VP) -> tuple[Tensor, Tensor]:
    """log(sigma^2) at tau_min and at 1 with the published rounding, 0-d float32; their difference is the
    published constant Z."""
    _check_tau_min(tau_min)

    def antiderivative(tau: float) -> Tensor:
        total = vp.beta_0 * torch.tensor(tau) + vp.slope * torch.tensor(tau) ** 2 / 2
        return torch.log(1.0 - torch.exp(-total)) + total

    return antiderivative(tau_min), antiderivative(1.0)


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
