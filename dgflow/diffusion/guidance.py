"""Guidance terms: gradients of a log-density with respect to a sampler's own x, which the sampler adds to the score.

A term is anything that can be called as `GuidanceTerm` says; `DiscriminatorGuidance` (Kim et al., ICML 2023) is the one built here.
Windows, weights and adaptive boosts belong to the term and are decided per sample on the device, without host syncs, so that a sample's
result does not depend on its batch mates. Where noise is added, and what solves the ODE, is left to `samplers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dgflow.diffusion.times import cosine_time, per_sample, tau_from_sigma

OUTSIDE_LOG_RATIO = 1e7
"""Log-ratio reported for a sample outside a term's window, where nothing is evaluated: "surely real", so that no boost follows."""
PUBLISHED_CLIP = 1e-5
"""Bound of the published code on the discriminator's probability, hence |log_ratio| <= 11.51."""

LogRatio = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(y [B, ...] float32 in linear-VP scaling, tau [B] float32, class labels) -> logit [B], the log of density real / fake."""


class GuidanceTerm(Protocol):
    """What a sampler calls, once for each evaluation of the score.

    Args:
        x: the sampler's state [B, ...] (EDM scaling, x0 + sigma * z). sigma: its noise levels [B]. class_labels: as the denoiser gets them.
        step: number of the step, from 0. order: 1 in the step's first evaluation, 2 in Heun's correction.
        sigma_bounds: host floats (low, high) that hold every sample's sigma, so that a term can skip its work without a host sync.

    Returns (the weighted gradient of a log-density with respect to x, like x, or None where it is surely zero for all;
    the log-ratio [B] or None). An attribute `boost: Boost | None`, if a term has one, lets it ask the sampler for churn.
    """

    def __call__(
        self, x: Tensor, sigma: Tensor, class_labels: Tensor | None, *, step: int, order: int, sigma_bounds: tuple[float, float]
    ) -> tuple[Tensor | None, Tensor | None]: ...


@dataclass(frozen=True)
class Boost:
    """The published "adaptive" rule: help the samples that the discriminator takes for fake (log_ratio < 0).

    Args:
        period: in every step that is a multiple of it (from 0), such samples' first-order gradient is multiplied by
        weight: this factor.
        churn_period: in every step that is a multiple of it, samples whose log-ratio in the step before was below 0 are churned with
        S_churn, S_noise: these, in place of the sampler's own.

    Step 0 has no step before and churns nothing; outside the window the log-ratio counts as above 0. The paper says "every odd step" for
    both (steps counted from 1), the code churns every fifth; the defaults are the code's.
    """

    period: int = 2
    weight: float = 2.0
    churn_period: int = 5
    S_churn: float = 4.0
    S_noise: float = 1.0

    def __post_init__(self) -> None:
        if self.period < 1 or self.churn_period < 1 or self.S_churn < 0:
            raise ValueError(f"expected period >= 1, churn_period >= 1 and S_churn >= 0, found {self}")


@dataclass(frozen=True)
class DiscriminatorGuidance:
    """Weighted gradient of a discriminator's log-ratio: score + weight * grad_x log(p_real / p_model) (Kim et al. 2023, equation 8).

    With Heun's method a correction averages the slopes of its two orders, so (weight, second_order_weight) = (2, 0) moves samples about as
    far as (1, 1), at half the cost; the first of these is the published choice for unconditional CIFAR-10.

    Args:
        discriminator: log-ratio of (y, tau, class labels), y = x / sqrt(1 + sigma^2); a network whose parameters do not require gradients
            saves the memory that their gradients would need.
        weight, second_order_weight: for order 1 and 2. An order of weight 0 is not evaluated.
        tau_min, tau_max: the window in linear-VP time, bounds included; 0.01 is sigma = 0.0447.
        cosine: tell the discriminator the cosine-schedule time in place of tau (64-pixel ADM classifiers). The window stays in tau.
        boost: the adaptive rule, or None.
        saturate: compatibility. The log-ratio by the published sigmoid, clip to [1e-5, 1 - 1e-5], log: |log_ratio| <= 11.51 and no gradient
            at all for samples beyond, which are the ones that look most fake.
        batch_window: compatibility. The published window, open or closed for the whole batch by the batch's smallest tau.

    A NaN of the discriminator inside the window is passed on. Call it under `torch.no_grad` or not, but not under inference mode.
    """

    discriminator: LogRatio
    weight: float = 1.0
    second_order_weight: float = 0.0
    tau_min: float = 0.01
    tau_max: float = 1.0
    cosine: bool = False
    boost: Boost | None = None
    saturate: bool = False
    batch_window: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.tau_min <= self.tau_max <= 1.0:
            raise ValueError(f"expected 0 <= tau_min <= tau_max <= 1, found tau_min={self.tau_min}, tau_max={self.tau_max}")
        if not (math.isfinite(self.weight) and math.isfinite(self.second_order_weight)):
            raise ValueError(f"expected finite weights, found weight={self.weight}, second_order_weight={self.second_order_weight}")

    def __call__(
        self, x: Tensor, sigma: Tensor, class_labels: Tensor | None, *, step: int, order: int, sigma_bounds: tuple[float, float]
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `GuidanceTerm`. (None, None) if no sample can be in the window or the weight is 0; else zero gradient and
        OUTSIDE_LOG_RATIO for each sample outside."""
        weight = self.weight if order == 1 else self.second_order_weight
        low, high = sigma_bounds
        if weight == 0.0 or tau_from_sigma(high) < self.tau_min or tau_from_sigma(low) > self.tau_max:
            return None, None
        tau = tau_from_sigma(sigma.double())
        window = tau.min().expand_as(tau) if self.batch_window else tau
        inside = (window >= self.tau_min) & (window <= self.tau_max)
        log_ratio, gradient = log_ratio_and_gradient(self.discriminator, x, sigma, class_labels, cosine=self.cosine, saturate=self.saturate)
        weight_B = torch.full_like(sigma, weight, dtype=torch.float64)
        if self.boost is not None and order == 1 and step % self.boost.period == 0:
            weight_B = torch.where(log_ratio < 0, weight_B * self.boost.weight, weight_B)
        # Chosen by where, not multiplied by 0: a discriminator may overflow at noise levels outside its window.
        gradient = torch.where(per_sample(inside, x), gradient * per_sample(weight_B, x), 0.0)
        return gradient, torch.where(inside, log_ratio, OUTSIDE_LOG_RATIO)


def log_ratio_and_gradient(
    discriminator: LogRatio, x: Tensor, sigma: Tensor, class_labels: Tensor | None, *, cosine: bool = False, saturate: bool = False
) -> tuple[Tensor, Tensor]:
    """The log-ratio [B] of x at noise levels sigma [B], in the discriminator's dtype, and its gradient with respect to x, float64.

    The discriminator sees float32 y = mean * x with mean = 1 / sqrt(1 + sigma^2), so grad_x = mean * grad_y. This is the published update:
    a slope (x - denoised) / sigma - sigma * w * grad_x adds -w * sigma / sqrt(1 + sigma^2) * grad_y = -w * std_vp * grad_y, where the code
    computes w / sigma * (-sigma^2 * mean * grad_y). `cosine`, `saturate` as in `DiscriminatorGuidance`.
    """
    sigma = sigma.double()
    mean = per_sample((1.0 + sigma.square()).rsqrt(), x)
    tau = tau_from_sigma(sigma)
    time = cosine_time(tau) if cosine else tau
    with torch.enable_grad():
        y = (mean * x).detach().float().requires_grad_()
        log_ratio = discriminator(y, time.float(), class_labels)
        if log_ratio.shape != sigma.shape:
            raise ValueError(f"expected one logit a sample, {list(sigma.shape)}, found {list(log_ratio.shape)}: check the head")
        if saturate:
            probability = log_ratio.sigmoid().clamp(PUBLISHED_CLIP, 1.0 - PUBLISHED_CLIP)
            log_ratio = torch.log(probability / (1.0 - probability))
        (gradient,) = torch.autograd.grad(log_ratio.sum(), y)
    return log_ratio.detach(), mean * gradient.double()

