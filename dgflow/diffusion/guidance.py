"""Guidance: terms whose gradients a sampler adds to the score, corrections of the denoised image, and how a
sampler asks for them.

Every sampler asks in EDM's scaling (x = x0 + sigma * z), so every term combines with every sampler; one whose
own state is y = x / sqrt(1 + sigma^2) multiplies the gradient by sqrt(1 + sigma^2). Terms decide windows,
weights and boosts per sample on the device, without host syncs, so that a sample's result does not depend on
its batch mates.
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
"""Log-ratio reported for a sample outside a term's window, where nothing is evaluated: "surely real", so that
no boost follows."""

Bounds = tuple[float, float]
"""Host floats (low, high) that hold noise levels."""

LogRatios = list[Tensor | None]
"""One per term: [B], or None of a term that has none."""


@dataclass(frozen=True)
class Point:
    """A state of the sampler at which it asks for guidance.

    Args:
        x: the state [B, ...] in EDM scaling, float64.
        sigma: its noise levels [B], float64.
        class_labels: as the denoiser gets them.
        step: number of the sampler's step, from 0; int64 [B] where the samples are in different ones.
        order: 1 in the step's first evaluation, 2 in a correction (Heun's).
        sigma_bounds: host floats (low, high) that hold every sample's sigma, so that a term can skip its work
            without a host sync.
        preceding: sum of the gradients of the terms listed before this one, like x, zero if none of them gave
            any; None for the first term of a list.
        denoised: the score network's image at this point, like x, not clipped; for gradient terms after all
            corrections. None where a sampler does not tell.
        step_sigma: noise levels [B] at which the sampler's step began, before churn, float64; None where
            these are sigma.
        step_bounds: host floats (low, high) that hold every sample's `step_sigma`; None for `sigma_bounds`.
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
        """The noise levels [B] at which the step began, and host floats that hold them."""
        sigma = self.sigma if self.step_sigma is None else self.step_sigma
        return sigma, self.sigma_bounds if self.step_bounds is None else self.step_bounds


class GuidanceTerm(Protocol):
    """Called by a sampler once for each evaluation of the score.

    Returns (the weighted gradient of a log-density with respect to x, like x, or None where it is surely zero
    for all; the log-ratio [B] or None).

    Where `point.x` requires gradients (likelihood), the gradient has to be differentiable in x once more:
    computed with `create_graph`, and not detached.

    Three attributes are optional: `boost: Boost | None` asks for churn; `tau_edges: tuple[float, ...]` are
    the linear-VP times at which the gradient jumps, where an adaptive ODE solver has to stop and start again;
    `acts(order, sigmas: Bounds, began: Bounds) -> bool` tells, without a network, whether a batch with noise
    levels between these bounds, in steps that began between those, is evaluated.
    """

    def __call__(self, point: Point) -> tuple[Tensor | None, Tensor | None]: ...


@runtime_checkable
class Correction(Protocol):
    """Called by a sampler once for each evaluation of the score network, before the terms of gradients: it
    gives another denoised image, as a second network or a scaled prediction of the noise does.

    Returns the corrected image, like `point.denoised`, or None where that stays as it is for all. Where
    `point.x` requires gradients (likelihood), it has to be differentiable in x. `tau_edges` and `acts` as of
    a `GuidanceTerm`; `is_free: bool`, also optional, is True for one that evaluates no network.
    """

    def correct(self, point: Point) -> Tensor | None: ...


Guide = GuidanceTerm | Correction
"""An entry of a sampler's `guidance`."""


@dataclass(frozen=True)
class Advice:
    """The answer of all entries of `guidance` at a point.

    Args:
        denoised: the image of the point after all corrections; of a point without one there is none.
        gradient: None where it is zero for all.
        log_ratios: one per entry; None of a correction.
        asked: whether each entry was evaluated, except for those that evaluate no network.
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
    """Correct the denoised image in order, then ask every term of a gradient in order, and add up.

    Raises ValueError for a term whose gradient has to be differentiable in x and is not, and for a correction
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
                    f"expected of {type(term).__name__}, term {index} of the guidance, a gradient that can "
                    "be differentiated once more in x, for the divergence of the guided score, found one in "
                    "which x has no part: compute it with create_graph=True, and do not detach it"
                )
            total = gradient if total is None else total + gradient
            asked[index] = True
    return Advice(cast("Tensor", point.denoised), total, log_ratios, tuple(asked))


def guided(advice: Advice, sigma: Tensor, denoised: Tensor | None = None) -> Tensor:
    """The denoised image of the guided score, float64: denoised + sigma^2 * gradient (Tweedie), sigma [B].
    `denoised` is the advice's own unless it is given, as where it was clipped."""
    denoised = (advice.denoised if denoised is None else denoised).double()
    if advice.gradient is None:
        return denoised
    return denoised + per_sample(sigma.square(), denoised) * advice.gradient


def asked_of(
    guidance: Sequence[Guide], asked: Sequence[bool], order: int, groups: Sequence[tuple[Bounds, Bounds]]
) -> np.ndarray:
    """bool [groups, entries], on the host: the entries that were `asked` by a batch, and act on each group of
    its rows itself; so this does not depend on the other rows.

    Args:
        groups: of each, the bounds of its noise levels, and of those at which its step began.
    """

    def own(sigmas: Bounds, began: Bounds) -> list[bool]:
        acts = (getattr(entry, "acts", lambda *_: True) for entry in guidance)
        return [due and each(order, sigmas, began) for due, each in zip(asked, acts, strict=True)]

    return np.array([own(*group) for group in groups], bool).reshape(len(groups), len(guidance))


def edges_of(terms: Sequence[Guide]) -> list[float]:
    """The linear-VP times at which the terms' gradients jump."""
    return [edge for term in terms for edge in getattr(term, "tau_edges", ())]


def boosts_of(terms: Sequence[Guide]) -> list[Boost | None]:
    """Every term's boost, None for those that have none."""
    return [getattr(term, "boost", None) for term in terms]


def latest(old: LogRatios, new: LogRatios) -> LogRatios:
    """The log-ratios to remember: `new` where it is inside the term's window, else `old`."""

    def choose(old_B: Tensor | None, new_B: Tensor | None) -> Tensor | None:
        if old_B is None or new_B is None:
            return old_B if new_B is None else new_B.double()
        return torch.where(new_B == OUTSIDE_LOG_RATIO, old_B, new_B.double())

    return [choose(*pair) for pair in zip(old, new, strict=True)]


def first_of(log_ratios: LogRatios) -> Tensor | None:
    """That of the first term that has one: `samplers.Sample.log_ratio`."""
    return next((value for value in log_ratios if value is not None), None)


def scale_at(scale: Scale, time_B: Tensor, unit: Literal["tau", "timestep"] = "tau") -> Tensor:
    """[B] float64: the number for samples at times [B], in linear-VP time or in timesteps."""
    if not isinstance(scale, Switch):
        return torch.full_like(time_B, scale, dtype=torch.float64)
    above = torch.full_like(time_B, scale.above, dtype=torch.float64)
    return torch.where(time_B > getattr(scale, unit), above, scale.below)


def is_idle(scale: Scale, window: tuple[float, float], sigma_bounds: Bounds) -> bool:
    """True if no sigma within the bounds is in the window of tau, or the weight is 0 at all of them."""
    low, high = map(tau_from_sigma, sigma_bounds)
    if high < window[0] or low > window[1]:
        return True
    if isinstance(scale, Switch):
        return (scale.above == 0.0 or high <= scale.tau) and (scale.below == 0.0 or low > scale.tau)
    return scale == 0.0


def edges(window: tuple[float, float], *scales: Scale) -> tuple[float, ...]:
    """The times tau, falling, at which a term of this window and these weights jumps."""
    times = {*window, *(scale.tau for scale in scales if isinstance(scale, Switch))}
    return tuple(sorted((tau for tau in times if 0.0 < tau < math.inf), reverse=True))


def weighted(gradient: Tensor, weight_B: Tensor, inside_B: Tensor) -> Tensor:
    """weight * gradient, 0 for the samples outside; chosen by where, not multiplied by 0, as a network may
    overflow at noise levels outside its window."""
    return torch.where(per_sample(inside_B, gradient), gradient * per_sample(weight_B, gradient), 0.0)


def differentiated(x: Tensor) -> bool:
    """True where what is computed from x will be differentiated in x."""
    return x.requires_grad and torch.is_grad_enabled()


def vp_gradient(
    ask: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], x: Tensor, sigma: Tensor, time: TimeMap
) -> tuple[Tensor, Tensor]:
    """A network's answer about x at noise levels sigma [B], and the gradient of a log-density in x, float64.

    Both are detached, or differentiable in x where x requires gradients.

    ask: (y, time [B]) -> (answer, log-density [B]). The network sees float32 y = mean * x with mean = 1 /
        sqrt(1 + sigma^2), so grad_x = mean * grad_y.
    """
    sigma = sigma.double()
    mean, again = per_sample((1.0 + sigma.square()).rsqrt(), x), differentiated(x)
    # Attention by plain products, as the fast kernels have one derivative only.
    kernels = sdpa_kernel(SDPBackend.MATH) if again else nullcontext()
    with torch.enable_grad(), kernels:
        y = (mean * x).float() if again else (mean * x).detach().float().requires_grad_()
        answer, log_density = ask(y, time(sigma).float())
        (gradient,) = torch.autograd.grad(log_density.sum(), y, create_graph=again)
    return answer if again else answer.detach(), mean * gradient.double()


def at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
