"""Discriminator guidance (Kim et al., ICML 2023): the weighted gradient of a discriminator's log-ratio."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dgflow.diffusion.guidance import (
    OUTSIDE_LOG_RATIO,
    Bounds,
    Point,
    at_least_float32,
    differentiated,
    edges,
    is_idle,
    scale_at,
    vp_gradient,
    weighted,
)
from dgflow.diffusion.guidance_settings import Boost, DiscriminatorSettings, Scale
from dgflow.diffusion.times import TimeMap, per_sample, tau_from_sigma

PUBLISHED_CLIP = 1e-5
"""Distance from 0 and 1 to which the published code clips the discriminator's probability, so that
|log_ratio| <= 11.51."""

MAX_NORM_RATIO = 100.0
"""Largest factor by which `match_preceding_norm` scales a gradient up. Networks in bfloat16 resolve a
gradient to about a hundredth of its usual size; a smaller one, as at noise levels where real and fake look
alike, scaled up to a classifier's, would be rounding noise.
"""

LogRatio = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(y [B, ...] float32 in linear-VP scaling, its time [B] float32, class labels) -> logit [B], the logarithm
of the density ratio of real to fake."""


@dataclass(frozen=True)
class DiscriminatorTerm:
    """score + weight * grad_x log(p_real / p_model) (Kim et al. 2023, equation 8).

    Args:
        discriminator: log-ratio of (y, time, class labels), y = x / sqrt(1 + sigma^2). Freeze its parameters
            to save the memory of their gradients.
        settings: weights, window, boost. An order with weight 0 for the whole step is not evaluated.
        time: the discriminator's time for a noise level: linear-VP time, `times.cosine_from_sigma` for the
            64-pixel ADM classifiers, or the index of a discrete schedule. The window is always in tau.

    A NaN of the discriminator inside the window propagates. The term works with or without `torch.no_grad`,
    but not in inference mode.
    """

    discriminator: LogRatio
    settings: DiscriminatorSettings = DiscriminatorSettings()
    time: TimeMap = tau_from_sigma

    @property
    def boost(self) -> Boost | None:
        return self.settings.boost

    @property
    def tau_edges(self) -> tuple[float, ...]:
        """Times at which the gradient jumps."""
        factor = 1.0 if self.boost is None else self.boost.weight
        return edges(self.settings.window, self.settings.weight, self.settings.second_order_weight, factor)

    def acts(self, order: int, sigmas: Bounds, began: Bounds) -> bool:
        """See `GuidanceTerm`."""
        del began
        return not is_idle(self._weight(order), self.settings.window, sigmas)

    def _weight(self, order: int) -> Scale:
        return self.settings.weight if order == 1 else self.settings.second_order_weight

    def __call__(self, point: Point) -> tuple[Tensor | None, Tensor | None]:
        """See `GuidanceTerm`. Returns (None, None) if no sample can be in the window or the weight is 0 for
        all; otherwise zero gradient and OUTSIDE_LOG_RATIO for each sample outside the window.

        Raises ValueError if a norm is to be matched and no term is listed before this one.
        """
        settings, boost = self.settings, self.boost
        if settings.match_preceding_norm and point.preceding is None:
            raise ValueError(
                "expected a term before this one in the list of guidance, whose norm match_preceding_norm "
                "matches, found none: list that term (such as the classifier) first, or set "
                "match_preceding_norm to False"
            )
        if not self.acts(point.order, point.sigma_bounds, point.began[1]):
            return None, None
        low, high = settings.window
        tau = tau_from_sigma(point.sigma.double())
        log_ratio, gradient = log_ratio_and_gradient(
            self.discriminator,
            point.x,
            point.sigma,
            point.class_labels,
            time=self.time,
            saturate=settings.saturate,
        )
        weight_B = scale_at(self._weight(point.order), tau)
        if settings.match_preceding_norm and point.preceding is not None:
            weight_B = weight_B * norm_ratio(point.preceding, gradient)
        if boost is not None and point.order == 1:
            fake = (log_ratio < 0) & (point.step % boost.period == 0)
            weight_B = torch.where(fake, weight_B * scale_at(boost.weight, tau), weight_B)
        inside = (tau >= low) & (tau <= high)
        return weighted(gradient, weight_B, inside), torch.where(inside, log_ratio, OUTSIDE_LOG_RATIO)


def norm_ratio(preceding: Tensor, gradient: Tensor) -> Tensor:
    """Each sample's |preceding| / |gradient| in L2 norms, at most MAX_NORM_RATIO, float64 [B]; a gradient of
    0 stays 0.
    """
    wanted, own = (value.double().flatten(1).norm(dim=1) for value in (preceding, gradient))
    return (wanted / own.clamp_min(torch.finfo(torch.float64).tiny)).clamp_max(MAX_NORM_RATIO)


def log_ratio_at(
    discriminator: LogRatio,
    x: Tensor,
    sigma: Tensor,
    class_labels: Tensor | None,
    *,
    time: TimeMap = tau_from_sigma,
) -> Tensor:
    """The log-ratio [B] of x at noise levels sigma [B], in at least float32; detached unless x requires
    gradients.
    """
    sigma = sigma.double()
    with torch.set_grad_enabled(differentiated(x)):
        y = per_sample((1.0 + sigma.square()).rsqrt(), x) * x
        return at_least_float32(discriminator(y.float(), time(sigma).float(), class_labels))


def log_ratio_and_gradient(
    discriminator: LogRatio,
    x: Tensor,
    sigma: Tensor,
    class_labels: Tensor | None,
    *,
    time: TimeMap = tau_from_sigma,
    saturate: bool = False,
) -> tuple[Tensor, Tensor]:
    """The log-ratio [B] of x at noise levels sigma [B], in at least float32, and its gradient with respect to
    x, float64; see `guidance.vp_gradient`.

    This equals the published update: a slope (x - denoised) / sigma - sigma * w * grad_x adds -w * sigma /
    sqrt(1 + sigma^2) * grad_y = -w * std_vp * grad_y, where the published code computes w / sigma * (-sigma^2
    * mean * grad_y).
    """

    def ask(y: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        log_ratio = discriminator(y, t_B, class_labels)
        if log_ratio.shape != sigma.shape:
            raise ValueError(
                f"expected one logit per sample, {list(sigma.shape)}, found {list(log_ratio.shape)}: check "
                "the head"
            )
        log_ratio = at_least_float32(log_ratio)
        if saturate:
            probability = log_ratio.sigmoid().clamp(PUBLISHED_CLIP, 1.0 - PUBLISHED_CLIP)
            log_ratio = torch.log(probability / (1.0 - probability))
        return log_ratio, log_ratio

    return vp_gradient(ask, x, sigma, time)
