"""Additions of the trainings of Soft Truncation and of LSGM to the linear-VP diffusion: times, weights, and
discretised steps.

Sampling needs none of them. Marginals, time maps and Soft Truncation's own importance times are in `times`;
`noise` draws the random numbers. Everything is float64 unless stated otherwise, on the device of its
argument. Sources: Song et al. 2021 (score-based SDEs), Kim et al. 2022 (Soft Truncation), Vahdat et al. 2021
(LSGM).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dgflow.diffusion.times import (
    LINEAR_VP,
    LinearVP,
    beta,
    integrated_beta,
    mean_std,
    tau_from_integrated_beta,
)

Weighting = Literal["likelihood", "unweighted", "reweighted", "rescaled"]


@dataclass(frozen=True)
class GeometricVE:
    """The variance-exploding diffusion of Song et al. 2021, also of CelebA's NCSN++: sigma(tau) is geometric
    and x is not scaled."""

    sigma_min: float = 0.01
    sigma_max: float = 90.0

    def sigma(self, tau: Tensor) -> Tensor:
        """Returns the standard deviation of the noise at times in [0, 1], in tau's dtype."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** tau

    def diffusion(self, tau: Tensor) -> Tensor:
        """Returns g(tau) of dx = g dw: g^2 is the slope of sigma^2. (The drift is 0.)"""
        return self.sigma(tau) * math.sqrt(2.0 * math.log(self.sigma_max / self.sigma_min))

    def step_noise(self, tau: Tensor, num_scales: int = 1000) -> Tensor:
        """Returns the noise of the discretised step (SMLD) that ends at tau's scale: sqrt(sigma_i^2 -
        sigma_{i-1}^2), i = floor(tau (N - 1))."""
        index = (tau * (num_scales - 1)).long()
        growth = self.sigma_max / self.sigma_min
        sigma = self.sigma_min * growth ** (index.double() / (num_scales - 1))
        return torch.where(
            index > 0, sigma * math.sqrt(-math.expm1(-2.0 * math.log(growth) / (num_scales - 1))), sigma
        )


def vp_step(tau: Tensor, num_scales: int = 1000, vp: LinearVP = LINEAR_VP) -> tuple[Tensor, Tensor]:
    """Returns (mean, noise) of the discretised step (DDPM) at times in [0, 1]: y -> mean * y + noise * z.

    noise^2 = beta(i / (N - 1)) / N with i = floor(tau (N - 1)), and mean^2 + noise^2 = 1.
    """
    index = (tau * (num_scales - 1)).long()
    rate = beta(index.double() / (num_scales - 1), vp) / num_scales
    return (1.0 - rate).sqrt(), rate.sqrt()


def soft_truncation_tau(u: Tensor, k: float, tau_min: float = 1e-5) -> Tensor:
    """Returns a batch's smallest time, with density proportional to tau^-k on [tau_min, 1], from `u` uniform
    on [0, 1] (Kim et al. 2022).

    Training times of the batch are then drawn between it and 1. k = 1 is log-uniform; larger k is closer to
    tau_min.
    """
    if not 0.0 < tau_min < 1.0:
        raise ValueError(f"expected 0 < tau_min < 1, found {tau_min}")
    # ((1 - u) tau_min^(1 - k) + u)^(1 / (1 - k)), in a form that is continuous at k = 1.
    power, length, u = 1.0 - k, -math.log(tau_min), u.double()
    exponent = u * length if power == 0.0 else torch.log1p(u * math.expm1(power * length)) / power
    return tau_min * torch.exp(exponent)


class LSGMTimes(NamedTuple):
    """Training times [B] of LSGM's prior, and the factor of |epsilon - prediction|^2 for each.

    weight: for the prior. likelihood_weight: for the autoencoder, which always has the likelihood's
    weighting.
    """

    tau: Tensor
    weight: Tensor
    likelihood_weight: Tensor


def lsgm_times(
    u: Tensor, weighting: Weighting, *, importance: bool, tau_min: float = 0.01, vp: LinearVP = LINEAR_VP
) -> LSGMTimes:
    """Returns times in [tau_min, 1] and weights, from `u` [B] uniform on [0, 1] (Vahdat et al. 2021, sections
    3.3 and 3.4).

    The losses are integrals over tau of w(tau) |epsilon - prediction|^2, with std^2 the variance of the
    noise:

        weighting    w                          importance density r
        likelihood   beta / (2 std^2)           slope of log std^2
        unweighted   1                          1 - std^2
        reweighted   beta / 2                   slope of std^2
        rescaled     1 / (2 (1 - std^2))        none; at uniform times the likelihood's w / r up to a factor

    r is proportional to w * (1 - std^2), which is the loss for a standard normal prior, so that w / r varies
    least. With `importance`, tau is drawn from r and both weights are divided by r; else tau is uniform and
    they are w as above. (Published weights are for an average over uniform u, that is, not divided by the
    length 1 - tau_min; so are these.)
    """
    if not 0.0 < tau_min < 1.0:
        raise ValueError(f"expected 0 < tau_min < 1, found {tau_min}")
    if importance and weighting == "rescaled":
        raise ValueError('expected importance=False with the weighting "rescaled", whose times are uniform')
    u = u.double()
    first, end = mean_std(tau_min, vp)[1] ** 2, mean_std(1.0, vp)[1] ** 2
    mass = 1.0
    if not importance:
        tau = tau_min + (1.0 - tau_min) * u
    elif weighting == "unweighted":
        # exp(-B) is a Gaussian in tau, so its integral is an error function.
        width, offset = math.sqrt(0.5 * vp.slope), vp.beta_0 / vp.slope
        low, high = (math.erf(width * (tau + offset)) for tau in (tau_min, 1.0))
        tau = torch.erfinv(low + (high - low) * u) / width - offset
        mass = 0.5 * math.sqrt(math.pi) / width * math.exp(width**2 * offset**2 - vp.start) * (high - low)
    else:
        variance = first * (end / first) ** u if weighting == "likelihood" else first + (end - first) * u
        tau = tau_from_integrated_beta(-torch.log1p(-variance), vp)
        mass = math.log(end / first) if weighting == "likelihood" else end - first

    rate, kept = (
        beta(tau, vp),
        torch.exp(-integrated_beta(tau, vp)),
    )  # kept = 1 - std^2; the slope of std^2 is rate * kept
    variance = mean_std(tau, vp)[1].square()
    likelihood = rate / (2.0 * variance)
    weights = {
        "likelihood": likelihood,
        "unweighted": torch.ones_like(rate),
        "reweighted": rate / 2.0,
        "rescaled": 1.0 / (2.0 * kept),
    }
    densities = {"likelihood": rate * kept / variance, "unweighted": kept, "reweighted": rate * kept}
    density = densities[weighting] / mass if importance else torch.ones_like(rate)
    return LSGMTimes(tau, weights[weighting] / density, likelihood / density)
