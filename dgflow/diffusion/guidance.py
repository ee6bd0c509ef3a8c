"""Guidance: terms whose gradients a sampler adds to the score, corrections of the denoised image, and their
evaluation by a sampler.

Every sampler evaluates guidance in EDM's scaling (x = x0 + sigma * z), so every term combines with every
sampler; a sampler with the state y = x / sqrt(1 + sigma^2) multiplies the gradient by sqrt(1 + sigma^2).
Terms apply windows, weights and boosts per sample on the device, without host syncs, so a sample's result
does not depend on the rest of its batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dgflow.diffusion.guidance_settings import Boost, Scale, Switch
from dgflow.diffusion.times import TimeMap, per_sample, tau_from_sigma

OUTSIDE_LOG_RATIO = 1e7
"""Log-ratio reported for a sample outside a term's window, where nothing is evaluated: "surely real", so no
boost follows.
"""

Bounds = tuple[float, float]
"""Host floats (low, high) that enclose noise levels."""

ANYWHERE: Bounds = (0.0, 1e9)
"""Bounds for noise levels that the host does not know: a term acts by each sample's own level."""

GRADIENT_SCALE = 2.0**10
"""Factor on a network's gradient during the backward pass, which keeps the gradient out of float16's
subnormal numbers. A power of two changes no bits in other precisions."""

LogRatios = list[Tensor | None]
"""Log-ratios by term: [B], or None for a term without one."""


@dataclass(frozen=True)
class Point:
    """A state at which a sampler evaluates guidance.

    Args:
        x: the state [B, ...] in EDM scaling, float64.
        sigma: its noise levels [B], float64.
        class_labels: the denoiser's labels.
        step: number of the sampler's step, from 0; int64 [B] if the samples are in different steps.
        order: 1 in the step's first evaluation, 2 in Heun's correction.
        sigma_bounds: host floats (low, high) that enclose every sample's sigma, so that a term can skip work
            without a host sync.
        preceding: sum of the gradients of the terms listed before this one, like x, zero if none of them
            returned one; None for the first term.
        denoised: the score network's image at this point, like x, not clipped; for gradient terms after all
            corrections. None if a sampler does not provide it.
        step_sigma: noise levels [B] at which the sampler's step began, before churn, float64; None if they
            equal sigma.
        step_bounds: host floats (low, high) that enclose every sample's `step_sigma`; None for
            `sigma_bounds`.
    """

    x: Tensor
    sigma: Tensor
    class_labels: Tensor | None
    step: int | Tensor
    order: int
    sigma_bounds: Bounds
    preceding: Tensor | None = None
    denoised: Tensor | None = None
    step_sigma: Tensor | None = None
    step_bounds: Bounds | None = None

    @property
    def began(self) -> tuple[Tensor, Bounds]:
        """The noise levels [B] at which the step began, and host floats that enclose them."""
        sigma = self.sigma if self.step_sigma is None else self.step_sigma
        return sigma, self.sigma_bounds if self.step_bounds is None else self.step_bounds


class GuidanceTerm(Protocol):
    """A gradient term; a sampler calls it once per evaluation of the score.

    Returns (the weighted gradient of a log-density with respect to x, like x, or None if it is zero for all;
    the log-ratio [B] or None).

    If `point.x` requires gradients (likelihood), the gradient must itself be differentiable in x: computed
    with `create_graph`, and not detached.

    Three attributes are optional:

    - `boost: Boost | None` requests churn;
    - `tau_edges: tuple[float, ...]` are the linear-VP times at which the gradient jumps, where an adaptive
      ODE solver must restart;
    - `acts(order, sigmas: Bounds, began: Bounds) -> bool` is True if the term is evaluated for a batch with
      noise levels in `sigmas`, in steps that began within `began`; it evaluates no network.
    """

    def __call__(self, point: Point) -> tuple[Tensor | None, Tensor | None]: ...


@runtime_checkable
class Correction(Protocol):
    """A correction of the denoised image, such as by a second network or by epsilon scaling; a sampler calls
    it once per evaluation of the score network, before the gradient terms.

    Returns the corrected image, like `point.denoised`, or None if it is unchanged for all samples. If
    `point.x` requires gradients (likelihood), the image must be differentiable in x. `tau_edges` and `acts`
    are as in `GuidanceTerm`; `is_free: bool`, also optional, is True for a correction that evaluates no
    network.
    """

    def correct(self, point: Point) -> Tensor | None: ...


Guide = GuidanceTerm | Correction
"""An entry of a sampler's `guidance`."""


@dataclass(frozen=True)
class Advice:
    """The result of all entries of `guidance` at a point.

    Args:
        denoised: the point's image after all corrections; None for a point without an image.
        gradient: the sum of the gradients; None if it is zero for all.
        log_ratios: one per entry; None for a correction.
        asked: True per entry that was evaluated; entries without a network do not count.
    """

    denoised: Tensor
    gradient: Tensor | None
    log_ratios: LogRatios
    asked: tuple[bool, ...]

    @property
    def nfe(self) -> int:
        """The number of entries that were evaluated."""
        return sum(self.asked)


def guide(guidance: Sequence[Guide], point: Point) -> Advice:
    """Apply all corrections to the denoised image, then evaluate all gradient terms, in order, and sum the
    gradients.

    Raises ValueError for a term whose gradient must be differentiable in x and is not, and for a correction
    at a point without a denoised image.
    """
    asked = [False] * len(guidance)
    for index, entry in enumerate(guidance):
        if not isinstance(entry, Correction):
            continue
        if point.denoised is None:
            raise ValueError(f"expected a point with a denoised image for {type(entry).__name__}, found none")
        corrected = entry.correct(point)
        if corrected is not None:
            point = replace(point, denoised=corrected)
            asked[index] = not getattr(entry, "is_free", False)
    total: Tensor | None = None
    log_ratios: LogRatios = [None] * len(guidance)
    is_first = True
    for index, term in enumerate(guidance):
        if isinstance(term, Correction):
            continue
        preceding = torch.zeros_like(point.x) if total is None and not is_first else total
        is_first = False
        gradient, log_ratios[index] = term(replace(point, preceding=preceding))
        if gradient is not None:
            if differentiated(point.x) and not gradient.requires_grad:
                raise ValueError(
                    f"expected a gradient that can be differentiated again in x, for the divergence of the "
                    f"guided score, found one that does not depend on x, of {type(term).__name__}, term "
                    f"{index} of the guidance: compute it with create_graph=True, and do not detach it"
                )
            total = gradient if total is None else total + gradient
            asked[index] = True
    return Advice(cast("Tensor", point.denoised), total, log_ratios, tuple(asked))


def guided(advice: Advice, sigma: Tensor, denoised: Tensor | None = None) -> Tensor:
    """The denoised image of the guided score, float64: denoised + sigma^2 * gradient (Tweedie), sigma [B].

    denoised: the image to use instead of the advice's, such as a clipped one.
    """
    denoised = (advice.denoised if denoised is None else denoised).double()
    if advice.gradient is None:
        return denoised
    return denoised + per_sample(sigma.square(), denoised) * advice.gradient


def acting(guidance: Sequence[Guide], order: int, sigmas: Bounds, began: Bounds) -> list[bool]:
    """True for each entry that is evaluated at noise levels within `sigmas`, in steps that began within
    `began`; no network is evaluated."""
    return [getattr(entry, "acts", lambda *_: True)(order, sigmas, began) for entry in guidance]


def asked_of(
    guidance: Sequence[Guide], asked: Sequence[bool], order: int, groups: Sequence[tuple[Bounds, Bounds]]
) -> np.ndarray:
    """The entries that were `asked` for a batch and act on each group of rows, bool [groups, entries], on the
    host; independent of the other rows.

    Args:
        groups: per group, the bounds of its noise levels, and of the levels at which its step began.
    """

    def own(sigmas: Bounds, began: Bounds) -> list[bool]:
        acts = acting(guidance, order, sigmas, began)
        return [due and act for due, act in zip(asked, acts, strict=True)]

    return np.array([own(*group) for group in groups], bool).reshape(len(groups), len(guidance))


def edges_of(terms: Sequence[Guide]) -> list[float]:
    """The linear-VP times at which the terms' gradients jump."""
    return [edge for term in terms for edge in getattr(term, "tau_edges", ())]


def boosts_of(terms: Sequence[Guide]) -> list[Boost | None]:
    """Every term's boost; None for a term without one."""
    return [getattr(term, "boost", None) for term in terms]


def latest(old: LogRatios, new: LogRatios) -> LogRatios:
    """The log-ratios to remember: `new` for samples inside the term's window, otherwise `old`."""

    def choose(old_B: Tensor | None, new_B: Tensor | None) -> Tensor | None:
        if old_B is None or new_B is None:
            return old_B if new_B is None else new_B.double()
        return torch.where(new_B == OUTSIDE_LOG_RATIO, old_B, new_B.double())

    return [choose(*pair) for pair in zip(old, new, strict=True)]


def first_of(log_ratios: LogRatios) -> Tensor | None:
    """The log-ratio of the first term that has one, for `samplers.Sample.log_ratio`."""
    return next((value for value in log_ratios if value is not None), None)


def scale_at(scale: Scale, time_B: Tensor, unit: Literal["tau", "timestep"] = "tau") -> Tensor:
    """The scale for samples at times [B], in linear-VP time or in timesteps; float64 [B]."""
    if not isinstance(scale, Switch):
        return torch.full_like(time_B, scale, dtype=torch.float64)
    above = torch.full_like(time_B, scale.above, dtype=torch.float64)
    return torch.where(time_B > getattr(scale, unit), above, scale.below)


def is_idle(scale: Scale, window: tuple[float, float], sigma_bounds: Bounds) -> bool:
    """True if no sigma within the bounds is in the window of tau, or if the weight is 0 at all of them."""
    low, high = map(tau_from_sigma, sigma_bounds)
    if high < window[0] or low > window[1]:
        return True
    if isinstance(scale, Switch):
        return (scale.above == 0.0 or high <= scale.tau) and (scale.below == 0.0 or low > scale.tau)
    return scale == 0.0


def edges(window: tuple[float, float], *scales: Scale) -> tuple[float, ...]:
    """The times tau, decreasing, at which a term with this window and these weights jumps."""
    times = {*window, *(scale.tau for scale in scales if isinstance(scale, Switch))}
    return tuple(sorted((tau for tau in times if 0.0 < tau < math.inf), reverse=True))


def weighted(gradient: Tensor, weight_B: Tensor, inside_B: Tensor) -> Tensor:
    """weight * gradient for samples inside the window, 0 for the others.

    torch.where selects the zeros, since a network may overflow outside its window, and 0 * inf is NaN.
    """
    return torch.where(per_sample(inside_B, gradient), gradient * per_sample(weight_B, gradient), 0.0)


def differentiated(x: Tensor) -> bool:
    """True if results computed from x will be differentiated in x."""
    return x.requires_grad and torch.is_grad_enabled()


def vp_gradient(
    ask: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], x: Tensor, sigma: Tensor, time: TimeMap
) -> tuple[Tensor, Tensor]:
    """A network's output for x at noise levels sigma [B], and the gradient of a log-density in x, float64.

    Both are detached, unless x requires gradients: then both are differentiable in x.

    ask: (y, time [B]) -> (output, log-density [B]). The network receives float32 y = mean * x with mean =
        1 / sqrt(1 + sigma^2), so grad_x = mean * grad_y.
    """
    sigma = sigma.double()
    mean, again = per_sample((1.0 + sigma.square()).rsqrt(), x), differentiated(x)
    # Attention is computed by plain products, since the fast kernels have only a first derivative.
    kernels = sdpa_kernel(SDPBackend.MATH) if again else nullcontext()
    with torch.enable_grad(), kernels:
        y = (mean * x).float() if again else (mean * x).detach().float().requires_grad_()
        answer, log_density = ask(y, time(sigma).float())
        (gradient,) = torch.autograd.grad(GRADIENT_SCALE * log_density.sum(), y, create_graph=again)
    return answer if again else answer.detach(), mean * (gradient.double() / GRADIENT_SCALE)


def at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
