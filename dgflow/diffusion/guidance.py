"""Guidance: terms whose gradients a sampler adds to the score, and how a sampler asks for them.

A term is anything that can be called as `GuidanceTerm` says; `discriminator_guidance` and
`classifier_guidance` hold the published ones. Every sampler asks in the same scaling (EDM's: x = x0 + sigma *
z), so every term combines with every sampler; a sampler whose own state is y = x / sqrt(1 + sigma^2)
converts, and multiplies the gradient by sqrt(1 + sigma^2). Windows, weights and adaptive boosts belong to the
term and are decided per sample on the device, without host syncs, so that a sample's result does not depend
on its batch mates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from dgflow.diffusion.times import per_sample, tau_from_sigma

OUTSIDE_LOG_RATIO = 1e7
"""Log-ratio reported for a sample outside a term's window, where nothing is evaluated: "surely real", so that
no boost follows."""


@dataclass(frozen=True)
class Point:
    """Where a sampler asks for guidance.

    x: the state [B, ...] in EDM scaling, float64. sigma: its noise levels [B], float64. class_labels: as the
        denoiser gets them.
    step: number of the sampler's step, from 0. order: 1 in the step's first evaluation, 2 in a correction
        (Heun's).
    sigma_bounds: host floats (low, high) that hold every sample's sigma, so that a term can skip its work
        without a host sync.
    preceding: the sum of the gradients of the terms listed before this one, like x, zero if all of them had
        nothing to say; None for the
    first term of a list.
    """

    x: Tensor
    sigma: Tensor
    class_labels: Tensor | None
    step: int
    order: int
    sigma_bounds: tuple[float, float]
    preceding: Tensor | None = None


class GuidanceTerm(Protocol):
    """What a sampler calls, once for each evaluation of the score.

    Returns (the weighted gradient of a log-density with respect to x, like x, or None where it is surely zero
    for all; the log-ratio [B] or None).

    Two attributes, if a term has them, tell samplers more: `boost: Boost | None` lets it ask for churn;
        `tau_edges: tuple[float, ...]` are
    the linear-VP times at which its gradient jumps, where an adaptive ODE solver has to stop and start again.
    """

    def __call__(self, point: Point) -> tuple[Tensor | None, Tensor | None]: ...


@dataclass(frozen=True)
class Switch:
    """A number that depends on time: `above` where the time is greater than `at`, `below` elsewhere.

    The published recipes switch scales once on the way down, such as a classifier's at timestep 650 or
    classifier-free guidance at 200. The unit of `at` is that of the time which the owner compares.
    """

    above: float
    below: float
    at: float

    def __call__(self, time_B: Tensor) -> Tensor:
        """[B] float64 for times [B]."""
        above = torch.full_like(time_B, self.above, dtype=torch.float64)
        return torch.where(time_B > self.at, above, self.below)


def weight_at(weight: float | Switch, time_B: Tensor) -> Tensor:
    """[B] float64: the weight of samples at times [B]."""
    return (
        weight(time_B) if isinstance(weight, Switch) else torch.full_like(time_B, weight, dtype=torch.float64)
    )


def finite(weight: float | Switch) -> bool:
    """Whether a weight is a number, on both sides and with its edge if it switches."""
    return all(
        map(
            math.isfinite,
            (weight.above, weight.below, weight.at) if isinstance(weight, Switch) else (weight,),
        )
    )


def window_tau(tau_min: float, tau_max: float) -> tuple[float, float]:
    """A term's window with its open end: a tau_max of 1 is none, as discrete schedules begin a little above
    (ADM's at tau = 1.003)."""
    return tau_min, tau_max if tau_max < 1.0 else math.inf


def check_window(tau_min: float, tau_max: float) -> None:
    """ValueError for a window that cannot be."""
    if not 0.0 <= tau_min <= tau_max <= 1.0:
        raise ValueError(f"expected 0 <= tau_min <= tau_max <= 1, found tau_min={tau_min}, tau_max={tau_max}")


def sleeps(weight: float | Switch, window: tuple[float, float], sigma_bounds: tuple[float, float]) -> bool:
    """Whether a term does nothing at any sigma within the bounds, on host knowledge: outside its window of
    tau, or of weight 0."""
    low, high = map(tau_from_sigma, sigma_bounds)
    if high < window[0] or low > window[1]:
        return True
    if isinstance(weight, Switch):
        return (weight.above == 0.0 or high <= weight.at) and (weight.below == 0.0 or low > weight.at)
    return weight == 0.0


def edges(window: tuple[float, float], *weights: float | Switch) -> tuple[float, ...]:
    """The times tau, falling, at which a term of this window and these weights jumps."""
    found = {*window, *(weight.at for weight in weights if isinstance(weight, Switch))}
    return tuple(sorted((tau for tau in found if 0.0 < tau < math.inf), reverse=True))


@dataclass(frozen=True)
class Boost:
    """The published "adaptive" rule: help the samples that the discriminator takes for fake (log_ratio < 0).

    Args:
        period: in every step that is a multiple of it (from 0), such samples' first-order gradient is
            multiplied by
        weight: this factor, or a `Switch` of it by tau.
        churn_period: in every step that is a multiple of it, samples whose log-ratio in the step before was
            below 0 are churned with
        S_churn, S_noise: these, in place of the sampler's own. Only samplers that churn do it; S_churn = 0
            asks for none.

    Step 0 has no step before and churns nothing; outside the window the log-ratio counts as above 0. The
    paper says "every odd step" for both (steps counted from 1), the code churns every fifth; the defaults are
    the code's.
    """

    period: int = 2
    weight: float | Switch = 2.0
    churn_period: int = 5
    S_churn: float = 4.0
    S_noise: float = 1.0

    def __post_init__(self) -> None:
        if self.period < 1 or self.churn_period < 1 or self.S_churn < 0:
            raise ValueError(f"expected period >= 1, churn_period >= 1 and S_churn >= 0, found {self}")


@dataclass(frozen=True)
class Guidance:
    """What all terms together say at a point: gradient (None: zero for all), a log-ratio (or None) a term,
    terms evaluated."""

    gradient: Tensor | None
    log_ratios: list[Tensor | None]
    nfe: int


def guide(terms: Sequence[GuidanceTerm], point: Point) -> Guidance:
    """Ask every term in order, and add up."""
    total: Tensor | None = None
    log_ratios: list[Tensor | None] = []
    nfe = 0
    for index, term in enumerate(terms):
        preceding = torch.zeros_like(point.x) if total is None and index > 0 else total
        gradient, log_ratio = term(replace(point, preceding=preceding))
        log_ratios.append(log_ratio)
        if gradient is not None:
            total = gradient if total is None else total + gradient
            nfe += 1
    return Guidance(total, log_ratios, nfe)


def guided(denoised: Tensor, guidance: Guidance, sigma: Tensor) -> Tensor:
    """The denoised image of the guided score, float64: denoised + sigma^2 * gradient (Tweedie), sigma [B]."""
    denoised = denoised.double()
    return (
        denoised
        if guidance.gradient is None
        else denoised + per_sample(sigma.square(), denoised) * guidance.gradient
    )


def edges_of(terms: Sequence[GuidanceTerm]) -> list[float]:
    """The linear-VP times at which the terms' gradients jump."""
    return [edge for term in terms for edge in getattr(term, "tau_edges", ())]


def boosts_of(terms: Sequence[GuidanceTerm]) -> list[Boost | None]:
    """Every term's boost, None for those that have none."""
    return [getattr(term, "boost", None) for term in terms]


LogRatios = list[Tensor | None]
"""One a term: [B], or None of a term that has none."""


def latest(old: LogRatios, new: LogRatios) -> LogRatios:
    """The log-ratios to remember: `new` where it is inside the term's window, else `old`."""
    return [_latest(*pair) for pair in zip(old, new, strict=True)]


def first_of(log_ratios: LogRatios) -> Tensor | None:
    """That of the first term that has one: `samplers.Sample.log_ratio`."""
    return next((value for value in log_ratios if value is not None), None)


def _latest(old: Tensor | None, new: Tensor | None) -> Tensor | None:
    if new is None:
        return old
    new = new.double()
    return new if old is None else torch.where(new == OUTSIDE_LOG_RATIO, old, new)
