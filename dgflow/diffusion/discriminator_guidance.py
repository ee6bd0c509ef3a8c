"""Discriminator guidance (Kim et al., ICML 2023): the weighted gradient of a discriminator's log-ratio.

Weights, window, boost and norm matching are the term's own. Where noise is added, and what solves the ODE, is
left to the samplers; how the discriminator is built and trained, to `networks` and `losses`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dgflow.diffusion.guidance import (
    OUTSIDE_LOG_RATIO,
    Boost,
    Point,
    Switch,
    check_window,
    edges,
    finite,
    sleeps,
    weight_at,
    window_tau,
)
from dgflow.diffusion.times import TimeMap, per_sample, tau_from_sigma

PUBLISHED_CLIP = 1e-5
"""Bound of the published code on the discriminator's probability, hence |log_ratio| <= 11.51."""

MAX_NORM_RATIO = 100.0
"""Largest factor by which `match_preceding_norm` scales a gradient up. Networks in bfloat16 know a gradient
to about a hundredth of its usual size; a smaller one, as at noise levels where real and fake look alike,
scaled up to a classifier's would guide by rounding."""

LogRatio = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(y [B, ...] float32 in linear-VP scaling, its time [B] float32, class labels) -> logit [B], the log of
density real / fake."""


@dataclass(frozen=True)
class DiscriminatorGuidance:
    """Weighted gradient of a discriminator's log-ratio: score + weight * grad_x log(p_real / p_model) (Kim et
    al. 2023, equation 8).

    With Heun's method a correction averages the slopes of its two orders, so (weight, second_order_weight) =
    (2, 0) moves samples about as far as (1, 1), at half the cost; the first of these is the published choice
    for unconditional CIFAR-10.

    Args:
        discriminator: log-ratio of (y, time, class labels), y = x / sqrt(1 + sigma^2); a network whose
            parameters do not require gradients saves the memory that their gradients would need.
        weight, second_order_weight: for order 1 and 2, each a number or a `Switch` of it by tau. Where an
            order's weight is 0 for the whole step it is not evaluated.
        tau_min, tau_max: the window in linear-VP time, bounds included; 0.01 is sigma = 0.0447, and 1 means
            no upper end.
        time: what the discriminator is told for a noise level: linear-VP time, `times.cosine_from_sigma` for
            the 64-pixel ADM classifiers, or the index of a discrete schedule. The window is in tau all the
            same.
        boost: the adaptive rule, or None.
        match_preceding_norm: scale each sample's gradient, before weight and boost, to the L2 norm of what
            the terms listed before this one give it (ADM-G++, Kim et al. 2023: the classifier, with its own
            weight and entropy scale): both then pull equally hard. A sample to which they give nothing gets
            nothing here either.
        max_norm_ratio: bound on that factor.
        saturate: compatibility. The log-ratio by the published sigmoid, clip to [1e-5, 1 - 1e-5], log:
            |log_ratio| <= 11.51 and no gradient at all for samples beyond, which are the ones that look most
            fake.
        batch_window: compatibility. The published window, open or closed for the whole batch by the batch's
            smallest tau, also above 1.

    A NaN of the discriminator inside the window is passed on. Call it under `torch.no_grad` or not, but not
    under inference mode.
    """

    discriminator: LogRatio
    weight: float | Switch = 1.0
    second_order_weight: float | Switch = 0.0
    tau_min: float = 0.01
    tau_max: float = 1.0
    time: TimeMap = tau_from_sigma
    boost: Boost | None = None
    match_preceding_norm: bool = False
    max_norm_ratio: float = MAX_NORM_RATIO
    saturate: bool = False
    batch_window: bool = False

    def __post_init__(self) -> None:
        check_window(self.tau_min, self.tau_max)
        if not (finite(self.weight) and finite(self.second_order_weight)):
            raise ValueError(
                f"expected finite weights, found weight={self.weight}, "
                f"second_order_weight={self.second_order_weight}"
            )
        if not self.max_norm_ratio > 0.0:
            raise ValueError(f"expected max_norm_ratio > 0, found {self.max_norm_ratio}")

    @property
    def window(self) -> tuple[float, float]:
        """First and last tau at which it acts."""
        return (self.tau_min, self.tau_max) if self.batch_window else window_tau(self.tau_min, self.tau_max)

    @property
    def tau_edges(self) -> tuple[float, ...]:
        """Times at which the gradient jumps."""
        factor = 1.0 if self.boost is None else self.boost.weight
        return edges(self.window, self.weight, self.second_order_weight, factor)

    def __call__(self, point: Point) -> tuple[Tensor | None, Tensor | None]:
        """See `GuidanceTerm`. (None, None) if no sample can be in the window or the weight is 0 for all; else
        zero gradient and OUTSIDE_LOG_RATIO for each sample outside. Raises ValueError where a norm is to be
        matched and no term is listed before."""
        if self.match_preceding_norm and point.preceding is None:
            raise ValueError(
                "match_preceding_norm needs a term before this one in the list of guidance, such as the "
                "classifier's, and found none: list that one first, or set match_preceding_norm to False"
            )
        weight = self.weight if point.order == 1 else self.second_order_weight
        low, high = self.window
        if sleeps(weight, (low, high), point.sigma_bounds):
            return None, None
        tau = tau_from_sigma(point.sigma.double())
        window = tau.min().expand_as(tau) if self.batch_window else tau
        inside = (window >= low) & (window <= high)
        log_ratio, gradient = log_ratio_and_gradient(
            self.discriminator,
            point.x,
            point.sigma,
            point.class_labels,
            time=self.time,
            saturate=self.saturate,
        )
        weight_B = weight_at(weight, tau)
        if self.match_preceding_norm and point.preceding is not None:
            weight_B = weight_B * norm_ratio(point.preceding, gradient, self.max_norm_ratio)
        if self.boost is not None and point.order == 1 and point.step % self.boost.period == 0:
            weight_B = torch.where(log_ratio < 0, weight_B * weight_at(self.boost.weight, tau), weight_B)
        # Chosen by where, not multiplied by 0: a discriminator may overflow at noise levels outside its
        # window.
        gradient = torch.where(per_sample(inside, gradient), gradient * per_sample(weight_B, gradient), 0.0)
        return gradient, torch.where(inside, log_ratio, OUTSIDE_LOG_RATIO)


def norm_ratio(preceding: Tensor, gradient: Tensor, largest: float = MAX_NORM_RATIO) -> Tensor:
    """Each sample's |preceding| / |gradient| in L2 norms, at most `largest`, float64 [B]; where the gradient
    is 0, so is its multiple."""
    wanted, found = (value.double().flatten(1).norm(dim=1) for value in (preceding, gradient))
    return (wanted / found.clamp_min(torch.finfo(torch.float64).tiny)).clamp_max(largest)


def log_ratio_and_gradient(
    discriminator: LogRatio,
    x: Tensor,
    sigma: Tensor,
    class_labels: Tensor | None,
    *,
    time: TimeMap = tau_from_sigma,
    saturate: bool = False,
) -> tuple[Tensor, Tensor]:
    """The log-ratio [B] of x at noise levels sigma [B], float32 at least, and its gradient with respect to x,
    float64.

    The discriminator sees float32 y = mean * x with mean = 1 / sqrt(1 + sigma^2), so grad_x = mean * grad_y.
    This is the published update: a slope (x - denoised) / sigma - sigma * w * grad_x adds -w * sigma / sqrt(1
    + sigma^2) * grad_y = -w * std_vp * grad_y, where the code computes w / sigma * (-sigma^2 * mean *
    grad_y). `time`, `saturate` as in `DiscriminatorGuidance`.
    """
    sigma = sigma.double()
    mean = per_sample((1.0 + sigma.square()).rsqrt(), x)
    t_B = time(sigma).float()
    with torch.enable_grad():
        y = (mean * x).detach().float().requires_grad_()
        log_ratio = discriminator(y, t_B, class_labels)
        if log_ratio.shape != sigma.shape:
            raise ValueError(
                f"expected one logit a sample, {list(sigma.shape)}, found {list(log_ratio.shape)}: check "
                "the head"
            )
        log_ratio = log_ratio.to(torch.promote_types(log_ratio.dtype, torch.float32))
        if saturate:
            probability = log_ratio.sigmoid().clamp(PUBLISHED_CLIP, 1.0 - PUBLISHED_CLIP)
            log_ratio = torch.log(probability / (1.0 - probability))
        (gradient,) = torch.autograd.grad(log_ratio.sum(), y)
    return log_ratio.detach(), mean * gradient.double()
