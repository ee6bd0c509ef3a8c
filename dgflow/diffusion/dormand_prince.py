"""Dormand and Prince's adaptive 5(4) method for a batch of initial values, each with its own steps.

The method and its step control follow Hairer, Norsett and Wanner 1993 (section II.4), like scipy's
`solve_ivp(method="RK45")`. The callers (`rk45`, `likelihood`) define times and states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from dgflow.diffusion.times import per_sample

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
"""Weights of the slopes in the error estimate, the difference of the solutions of orders 5 and 4."""
AT_START = 2
"""Evaluations before the first attempt. If slopes are reused, an attempt takes one evaluation per entry of
STAGES.
"""
SAFETY, LEAST_FACTOR, LARGEST_FACTOR = 0.9, 0.2, 10.0
MAX_ATTEMPTS = 10_000
"""Maximum attempts in one piece; published runs at tolerance 1e-5 need 25 to 100."""
INSIDE = 1e-12
"""Relative distance that all evaluations keep from the edges of a piece. It exceeds rounding, so that every
evaluation lies inside the piece.
"""

Slope = Callable[[Tensor, Tensor, int], Tensor]
"""(y [B, ...], time [B], number of the attempt) -> dy/dtime, like y; float64."""
Norm = Callable[[Tensor], Tensor]
"""An error or a size in units of the tolerance, like y -> one number [B] per sample."""


def check_tolerances(rtol: float, atol: float) -> None:
    """Raise ValueError for tolerances that float64 cannot meet."""
    if not (rtol >= 1e-13 and atol >= 0.0):
        raise ValueError(
            f"expected rtol >= 1e-13 (float64 has no more) and atol >= 0, found rtol={rtol}, atol={atol}"
        )


def pieces(high: float, low: float, edges: Iterable[float]) -> list[float]:
    """The boundaries of the pieces on which the slope is smooth: times (or noise levels) above 0, from `high`
    down to `low`.
    """
    times = [high]
    for edge in sorted(set(edges), reverse=True):
        # Edges that are closer to each other differ only by the rounding of the maps.
        if low * (1.0 + 1e-9) < edge < times[-1] * (1.0 - 1e-9):
            times.append(edge)
    return [*times, low]


def solve(
    slope: Slope,
    y: Tensor,
    start: float,
    end: float,
    *,
    norm: Norm,
    rtol: float,
    atol: float,
    reuse: bool = True,
    moved: Callable[[Tensor], None] | None = None,
    attempted: Callable[[Tensor], None] | None = None,
    time: str = "tau",
) -> Tensor:
    """Integrate states y [B, ...] from `start` to `end`, an earlier time: time decreases.

    All unfinished samples attempt a step together, each from its own time and with its own step size;
    finished samples idle. The host waits for the device only between attempts. `slope` must be smooth between
    the two times.

    Args:
        norm: the size of a step's error; a step is accepted if its size is below 1.
        rtol, atol: allowed error of a step, relative to |y| and absolute.
        reuse: use the last slope of an attempt as the first of the next: six evaluations per attempt instead
            of seven.
        moved: called after the evaluation at `start`, and after each attempt, with the mask [B] of samples
            whose path contains the evaluated point.
        attempted: called after each attempt with the mask [B] of samples that were unfinished before it.
        time: name of the time in messages.

    Raises FloatingPointError if a solution cannot continue (mostly for NaN).
    """
    record = moved if moved is not None else lambda _: None
    tau = torch.full((len(y),), start, dtype=torch.float64, device=y.device)
    first = slope(y, tau, 0)
    record(tau > end)
    h = _first_step(slope, y, tau, first, start - end, norm, rtol, atol)
    rejected = tau < end
    for attempt in range(MAX_ATTEMPTS):
        if attempt > 0 and not reuse:
            first = slope(y, tau, attempt)
        smallest = _smallest_step(tau)
        tau_next = (tau - torch.maximum(h, smallest)).clamp_min(end)
        h = tau - tau_next
        h_x = per_sample(h, y)
        slopes, y_next = [first], y
        for fraction, weights in STAGES:
            y_next = y - h_x * _combine(weights, slopes)
            slopes.append(slope(y_next, tau - fraction * h if fraction < 1.0 else tau_next, attempt))
        error = norm(h_x * _combine(ERROR, slopes) / (atol + rtol * torch.maximum(y.abs(), y_next.abs())))
        accepted, unfinished = error < 1.0, tau > end
        factor = (SAFETY * error**-0.2).nan_to_num(0.0)  # a step that is too large may overflow
        larger = factor.clamp_max(LARGEST_FACTOR)
        larger = torch.where(rejected, larger.clamp_max(1.0), larger)  # not right after a rejection
        h = h * torch.where(accepted, larger, factor.clamp_min(LEAST_FACTOR))
        stuck = unfinished & ~accepted & ~(h >= smallest)
        rejected, onward = ~accepted, accepted & unfinished
        record(onward)
        if attempted is not None:
            attempted(unfinished)
        onward_x = per_sample(onward, y)
        y, first = torch.where(onward_x, y_next, y), torch.where(onward_x, slopes[-1], first)
        tau = torch.where(onward, tau_next, tau)
        going, lost = torch.stack([(tau > end).any(), stuck.any()]).tolist()
        if lost:
            raise FloatingPointError(_stuck_message(time, tau, stuck))
        if not going:
            return y
    raise FloatingPointError(
        f"expected a solution within {MAX_ATTEMPTS} attempts, found the solver at "
        f"{time}={float(tau.max()):.6g}: raise rtol ({rtol}) and atol ({atol})"
    )


def _first_step(
    slope: Slope, y: Tensor, tau: Tensor, first: Tensor, length: float, norm: Norm, rtol: float, atol: float
) -> Tensor:
    """Sizes [B] of the first attempt (Hairer et al., section II.4, as in scipy: order 4, one more
    evaluation)."""
    scale = atol + rtol * y.abs()
    size, speed = norm(y / scale), norm(first / scale)
    h = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed).clamp_max(length)
    second = slope(y - per_sample(h, y) * first, tau - h, 0)
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
    return 10.0 * (tau - torch.nextafter(tau, torch.full_like(tau, -torch.inf)))


def _stuck_message(time: str, tau: Tensor, stuck: Tensor) -> str:
    index = int(stuck.long().argmax())
    return (
        f"sample {index} of the batch cannot continue from {time}={float(tau[index]):.6g}: no step is small "
        "enough for the tolerance. Look for NaN or infinity in the results of denoiser and guidance there"
    )
