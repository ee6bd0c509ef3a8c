"""The guided probability-flow ODE in linear-VP time, by Dormand and Prince's adaptive 5(4) method.

dy/dtau = -beta / 2 * (y + score_y) of Song et al. 2021 (equation 13), with the method and step control of
Hairer, Norsett and Wanner 1993 (section II.4) as scipy's `solve_ivp(method="RK45")` has them. Published
results of LSGM and Soft Truncation share one step size over a batch of samples; here every sample has its
own, and the shared one is a compatibility mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dgflow.diffusion.guidance import (
    OUTSIDE_LOG_RATIO,
    GuidanceTerm,
    LogRatios,
    Point,
    boosts_of,
    edges_of,
    first_of,
    guide,
    guided,
    latest,
)
from dgflow.diffusion.samplers import Denoiser, Sample
from dgflow.diffusion.times import LINEAR_VP, LinearVP, beta, per_sample, sigma_from_tau, tau_from_sigma

STAGES = (
    (1 / 5, (1 / 5,)),
    (3 / 10, (3 / 40, 9 / 40)),
    (4 / 5, (44 / 45, -56 / 15, 32 / 9)),
    (8 / 9, (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729)),
    (1.0, (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656)),
    (1.0, (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)),
)
"""(fraction of the step, weights of the slopes so far) of the second to the seventh stage; the seventh is the
new state itself."""
ERROR = (-71 / 57600, 0.0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40)
"""Weights of the slopes in the difference of the orders 5 and 4."""
SAFETY, LEAST_FACTOR, LARGEST_FACTOR = 0.9, 0.2, 10.0
MAX_ATTEMPTS = 10_000
"""Attempts in one piece before giving up; published runs at tolerance 1e-5 need 25 to 100."""
INSIDE = 1e-12
"""Relative distance of all evaluations from the edges of a piece: above rounding, so that a term sees them on
the inner side."""


@torch.no_grad()
def rk45(
    denoiser: Denoiser,
    latents: Tensor,
    *,
    tau_max: float = 1.0,
    tau_min: float = 1e-5,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    class_labels: Tensor | None = None,
    guidance: Sequence[GuidanceTerm] = (),
    tau_edges: Sequence[float] = (),
    shared_step: bool = False,
    vp: LinearVP = LINEAR_VP,
    denoise_last: bool = False,
    denoise_tau: float | None = None,
) -> Sample:
    """Solve from `tau_max` to `tau_min`; score_y = sqrt(1 + sigma^2) * ((denoised - x) / sigma^2 + sum of
    gradients).

    All unfinished samples attempt a step together, each from its own time with its own size; a finished one
    idles. The only wait for the device is between attempts. The solver stops and starts again at every time
    in the terms' `tau_edges`, where the slope jumps, and evaluates no term beyond an edge. An attempt takes
    six evaluations, or seven if a term has a boost.

    Args:
        latents: unit normals [B, ...], the state y at tau_max.
        tau_max, tau_min: in the time of `vp`. Soft Truncation ends at 1e-5, LSGM at 1e-5 or 1e-6.
        rtol, atol: allowed error of a step, relative to |y| and absolute; the root mean square over a sample
            is below 1.
        class_labels: passed on to denoiser and guidance.
        guidance: see `guidance.GuidanceTerm`. `Point.step` counts the attempts in the piece, and `order` is
            1. The paper leaves a boost undefined for this solver: here it acts in attempts that are multiples
            of its period, its churn never.
        tau_edges: times at which the denoiser itself jumps (a classifier-free scale that switches).
        shared_step: compatibility. One step size for the batch, by the error over all of its samples, as
            published: a sample's result then depends on its batch mates.
        vp: the diffusion that the network was trained with. All edges are times of `LINEAR_VP` all the same.
        denoise_last: end with the guided denoised image at tau_min.
        denoise_tau: the time of that last denoising if not tau_min. Soft Truncation's is the time to which it
            trained, whatever the time to which it solves.

    Returns the state at tau_min as `x`; `nfe` counts evaluations of the batch, in every piece as many as the
    slowest sample needed.

    Raises ValueError for impossible times and tolerances, FloatingPointError where a solution cannot go on
    (above all for NaN).
    """
    if not 0.0 < tau_min < tau_max <= 1.0:
        raise ValueError(f"expected 0 < tau_min < tau_max <= 1, found tau_min={tau_min}, tau_max={tau_max}")
    if denoise_tau is not None and not 0.0 < denoise_tau <= 1.0:
        raise ValueError(f"expected 0 < denoise_tau <= 1, found {denoise_tau}")
    if not (rtol >= 1e-13 and atol >= 0.0):
        raise ValueError(
            f"expected rtol >= 1e-13 (float64 has no more) and atol >= 0, found rtol={rtol}, atol={atol}"
        )
    flow = _Flow(denoiser, class_labels, guidance, vp)
    # A boost makes the last slope of an attempt another than the next's first.
    reuse = all(boost is None for boost in boosts_of(guidance))
    last: LogRatios = [None] * len(guidance)
    y = latents.double()
    ones = torch.ones(len(y), dtype=torch.float64, device=y.device)

    def norm(value: Tensor) -> Tensor:
        square = value.square().flatten(1).mean(1)
        return (square.mean().expand_as(square) if shared_step else square).sqrt()

    def record(ratios: LogRatios, of: Tensor) -> None:
        new = [None if ratio is None else torch.where(of, ratio, OUTSIDE_LOG_RATIO) for ratio in ratios]
        last[:] = latest(last, new)

    for start, end in pairwise(_pieces([*tau_edges, *edges_of(guidance)], tau_max, tau_min, vp)):
        flow.enter(start, end)
        tau = ones * start
        first, ratios = flow(y, tau, 0)
        record(ratios, tau > end)
        h = _first_step(flow, y, tau, first, start - end, norm, rtol, atol)
        rejected = tau < end
        for attempt in range(MAX_ATTEMPTS):
            if attempt > 0 and not reuse:
                first, _ = flow(y, tau, attempt)
            smallest = _smallest_step(tau)
            tau_next = (tau - torch.maximum(h, smallest)).clamp_min(end)
            h = tau - tau_next
            h_x = per_sample(h, y)
            slopes, y_next = [first], y
            for fraction, weights in STAGES:
                y_next = y - h_x * _combine(weights, slopes)
                slope, ratios = flow(y_next, tau - fraction * h if fraction < 1.0 else tau_next, attempt)
                slopes.append(slope)
            error = norm(h_x * _combine(ERROR, slopes) / (atol + rtol * torch.maximum(y.abs(), y_next.abs())))
            accepted, unfinished = error < 1.0, tau > end
            factor = (SAFETY * error**-0.2).nan_to_num(0.0)  # too large a step may overflow
            larger = factor.clamp_max(LARGEST_FACTOR)
            larger = torch.where(rejected, larger.clamp_max(1.0), larger)  # not right after a rejection
            h = h * torch.where(accepted, larger, factor.clamp_min(LEAST_FACTOR))
            stuck = unfinished & ~accepted & ~(h >= smallest)
            rejected, moved = ~accepted, accepted & unfinished
            record(ratios, moved)
            moved_x = per_sample(moved, y)
            y, first = torch.where(moved_x, y_next, y), torch.where(moved_x, slopes[-1], first)
            tau = torch.where(moved, tau_next, tau)
            going, lost = torch.stack([(tau > end).any(), stuck.any()]).tolist()
            if lost:
                raise FloatingPointError(_lost(tau, stuck))
            if not going:
                break
        else:
            at = float(tau.max())
            raise FloatingPointError(
                f"after {MAX_ATTEMPTS} attempts still at tau={at:.6g}: raise rtol ({rtol}) and atol ({atol})"
            )
    if denoise_last:
        if denoise_tau is not None and denoise_tau != tau_min:
            sigma = sigma_from_tau(denoise_tau, vp)
            flow.bounds = (sigma, sigma)
        y, *_ = flow.denoised(y, (tau_min if denoise_tau is None else denoise_tau) * ones, 0)
    return Sample(x=y, nfe=flow.nfe, guidance_nfe=flow.guidance_nfe, log_ratio=first_of(last))


Norm = Callable[[Tensor], Tensor]
"""[B, ...] -> root mean square [B], of each sample or of the batch."""


class _Flow:
    """The slope dy/dtau, inside one piece at a time, and a count of evaluations."""

    def __init__(
        self, denoiser: Denoiser, class_labels: Tensor | None, guidance: Sequence[GuidanceTerm], vp: LinearVP
    ) -> None:
        self.denoiser, self.class_labels, self.guidance, self.vp = denoiser, class_labels, guidance, vp
        self.bounds = (0.0, 0.0)
        self.nfe = self.guidance_nfe = 0

    def enter(self, start: float, end: float) -> None:
        self.bounds = (
            sigma_from_tau(end, self.vp) * (1.0 + INSIDE),
            sigma_from_tau(start, self.vp) * (1.0 - INSIDE),
        )

    def denoised(self, y: Tensor, tau: Tensor, attempt: int) -> tuple[Tensor, Tensor, Tensor, LogRatios]:
        """(guided denoised image, x, sigma [B], log-ratios)."""
        sigma = sigma_from_tau(tau, self.vp).clamp(*self.bounds)
        x = y * per_sample((1.0 + sigma.square()).sqrt(), y)
        denoised = self.denoiser(x, sigma, self.class_labels)
        advice = guide(self.guidance, Point(x, sigma, self.class_labels, attempt, 1, self.bounds))
        self.nfe, self.guidance_nfe = self.nfe + 1, self.guidance_nfe + advice.nfe
        return guided(denoised, advice, sigma), x, sigma, advice.log_ratios

    def __call__(self, y: Tensor, tau: Tensor, attempt: int) -> tuple[Tensor, LogRatios]:
        denoised, x, sigma, ratios = self.denoised(y, tau, attempt)
        score = per_sample((1.0 + sigma.square()).sqrt() / sigma.square(), y) * (denoised - x)
        return -0.5 * per_sample(beta(tau, self.vp), y) * (y + score), ratios


def _pieces(edges: Sequence[float], tau_max: float, tau_min: float, vp: LinearVP) -> list[float]:
    """The times between which nothing jumps, falling, in the time of `vp`."""
    times = [tau_max]
    for edge in sorted(
        (tau_from_sigma(sigma_from_tau(edge), vp) for edge in set(edges) if edge > 0.0), reverse=True
    ):
        # Nearer than this it is the same edge, up to the rounding of the maps.
        if tau_min * (1.0 + 1e-9) < edge < times[-1] * (1.0 - 1e-9):
            times.append(edge)
    return [*times, tau_min]


def _first_step(
    flow: _Flow, y: Tensor, tau: Tensor, first: Tensor, length: float, norm: Norm, rtol: float, atol: float
) -> Tensor:
    """Sizes [B] of the first attempt (Hairer et al., section II.4, as in scipy: order 4, one more
    evaluation)."""
    scale = atol + rtol * y.abs()
    size, speed = norm(y / scale), norm(first / scale)
    h = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed).clamp_max(length)
    second, _ = flow(y - per_sample(h, y) * first, tau - h, 0)
    bend = (norm((second - first) / scale) / h).nan_to_num(0.0)
    still = (speed <= 1e-15) & (bend <= 1e-15)
    guess = torch.where(still, (1e-3 * h).clamp_min(1e-6), (0.01 / torch.maximum(speed, bend)) ** 0.2)
    return torch.minimum(100.0 * h, guess).clamp_max(length)


def _combine(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        if weight != 0.0:
            total = total + weight * slope
    return total


def _smallest_step(tau: Tensor) -> Tensor:
    """Ten times the spacing of float64 at tau, as in scipy."""
    return 10.0 * (tau - torch.nextafter(tau, torch.zeros_like(tau)))


def _lost(tau: Tensor, stuck: Tensor) -> str:
    index = int(stuck.long().argmax())
    return (
        f"sample {index} of the batch cannot go on from tau={float(tau[index]):.6g}: no step is small enough "
        "for the tolerance. Look for NaN or infinity in what denoiser and guidance return there"
    )
