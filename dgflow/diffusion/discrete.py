"""The discrete diffusions of ADM and DiT: betas, respacing, and the noise levels of timesteps.

A discrete diffusion adds noise in `original_num_steps` steps: y_i = sqrt(abar_i) x0 + sqrt(1 - abar_i) z,
with abar_i the product of 1 - beta up to i. A respaced diffusion samples with a subset of these steps,
`timestep_map`. An `index` 0 .. n - 1 counts the kept steps, cleanest first. A `timestep` is a step's number
in the original diffusion, which networks take as input. Index i has the EDM noise level
sqrt((1 - abar_i) / abar_i).

All numbers are Python floats (float64), computed in the original code's order of operations, since 1 - abar
loses four digits near 0. Sources: Ho et al. 2020, equations 4 to 7; Nichol & Dhariwal 2021, sections 3.2
(cosine) and 4 (respacing).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate, pairwise
from operator import mul

import torch
from torch import Tensor

from dgflow.diffusion.ranges import ROUNDING
from dgflow.diffusion.times import COSINE_S, TimeMap, tau_from_sigma
from dgflow.specs.spec import Grid

MAX_BETA = 0.999
"""Upper bound of the cosine schedule's betas, which keeps the last beta below 1."""


def linear_betas(num_steps: int) -> tuple[float, ...]:
    """Betas evenly spaced from 1e-4 to 0.02 for 1000 steps (Ho et al. 2020). For other numbers of steps, both
    ends are multiplied by 1000 / num_steps.

    Raises ValueError for fewer than 21 steps, for which the last beta would reach 1.
    """
    if num_steps < 21:
        raise ValueError(
            f"expected 21 or more steps, found {num_steps}: for fewer, respace a longer schedule"
        )
    low, high = 1000 / num_steps * 1e-4, 1000 / num_steps * 0.02
    return tuple(low + i * ((high - low) / (num_steps - 1)) for i in range(num_steps))


def cosine_betas(num_steps: int) -> tuple[float, ...]:
    """Betas, each at most 0.999, that give abar ~ cos^2((t + s) / (1 + s) * pi / 2) at t = (i + 1) /
    num_steps, with s = 0.008.
    """
    levels = [
        math.cos((i / num_steps + COSINE_S) / (1 + COSINE_S) * math.pi / 2) ** 2 for i in range(num_steps + 1)
    ]
    return tuple(min(1 - after / before, MAX_BETA) for before, after in pairwise(levels))


def respaced_timesteps(num_steps: int, respacing: str | Sequence[int] = "") -> tuple[int, ...]:
    """The timesteps to keep of 0 .. num_steps - 1, increasing.

    Args:
        respacing: "" keeps all steps. "ddim25" keeps every k-th step from 0, with the stride k for which 25
            steps remain. "250", "10,20,30" or [10, 20, 30] divides the steps into one section per number and
            keeps that number of steps in each section, evenly spaced from its first to its last. The lengths
            of sections differ by at most one, and longer sections come first. A section with 0 is skipped.

    Raises ValueError if no stride k exists, and if a section has fewer steps than requested.
    """
    if isinstance(respacing, str) and respacing.startswith("ddim"):
        wanted = _count(respacing.removeprefix("ddim"), respacing)
        for stride in range(1, num_steps):
            if len(range(0, num_steps, stride)) == wanted:
                return tuple(range(0, num_steps, stride))
        raise ValueError(
            f"no stride keeps {wanted} of {num_steps} steps, as respacing {respacing!r} requires: use "
            f"{wanted} without 'ddim'"
        )
    if respacing == "":
        return tuple(range(num_steps))
    sections = respacing.split(",") if isinstance(respacing, str) else map(str, respacing)
    counts = [_count(count, respacing) for count in sections]
    if not any(counts):
        raise ValueError(
            f'expected respacing like "250", "ddim25" or "10,20,30", found no step in {respacing!r}'
        )
    kept: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        size = num_steps // len(counts) + (section < num_steps % len(counts))
        if count > size:
            raise ValueError(
                f"expected at most {size} steps of a section of {size}, found {count} in respacing "
                f"{respacing!r}: request fewer"
            )
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        # A sum rather than a product, as published: if the exact position is half-way between two steps, the
        # sum's rounding decides.
        position = 0.0
        for _ in range(count):
            kept.append(start + round(position))
            position += stride
        start += size
    return tuple(kept)


@dataclass(frozen=True)
class DiscreteSchedule:
    """A discrete diffusion, sampled at the steps in `timestep_map`; tuples hold one number per index.

    Args:
        original_betas: betas, in (0, 1), of the diffusion of the network's training.
        timestep_map: at least two timesteps of 0 .. original_num_steps - 1, increasing.
    """

    original_betas: tuple[float, ...]
    timestep_map: tuple[int, ...]

    def __post_init__(self) -> None:
        if not all(0.0 < beta < 1.0 for beta in self.original_betas):
            raise ValueError(
                f"expected betas in (0, 1), found {min(self.original_betas)} to {max(self.original_betas)}"
            )
        steps = self.timestep_map
        if (
            len(steps) < 2
            or steps[0] < 0
            or steps[-1] >= self.original_num_steps
            or any(a >= b for a, b in pairwise(steps))
        ):
            raise ValueError(
                f"expected two or more increasing timesteps of 0 .. {self.original_num_steps - 1}, found "
                f"{steps}"
            )

    @classmethod
    def of(
        cls, betas: str = "linear", num_steps: int = 1000, respacing: str | Sequence[int] = ""
    ) -> DiscreteSchedule:
        """The schedule of the named betas, "linear" (ADM's 256-pixel networks, DiT) or "cosine" (ADM's
        64-pixel ones), respaced."""
        makers = {"linear": linear_betas, "cosine": cosine_betas}
        if betas not in makers:
            raise ValueError(f'expected betas "linear" or "cosine", found {betas!r}')
        return cls(makers[betas](num_steps), respaced_timesteps(num_steps, respacing))

    def respaced(self, respacing: str | Sequence[int]) -> DiscreteSchedule:
        """The same original diffusion with other steps; see `respaced_timesteps`."""
        return DiscreteSchedule(self.original_betas, respaced_timesteps(self.original_num_steps, respacing))

    def respaced_below(self, sigma: float, respacing: str | Sequence[int], grid: Grid) -> DiscreteSchedule:
        """The schedule of a run that begins at noise level `sigma`.

        Args:
            grid: "tail" keeps the steps of a full run, from the step nearest to `sigma` (in log sigma) to the
                cleanest. "whole" respaces the timesteps from 0 to the nearest one; a fixed stride is counted
                down from the nearest one.

        Raises ValueError for a level outside the schedule, if fewer than two steps remain, and if the last
        section would omit the start.
        """
        whole = grid == "whole"
        timesteps = range(self.original_num_steps) if whole else self.respaced(respacing).timestep_map
        levels = [self.original_sigmas[step] for step in timesteps]
        if not levels[0] * (1 - ROUNDING) <= sigma <= levels[-1] * (1 + ROUNDING):
            raise ValueError(
                f"expected a start at a noise level between {levels[0]:.6g} and {levels[-1]:.6g}, the range "
                f"of the schedule's steps, found {sigma:.6g}: start at another time, or keep other steps "
                "(respacing)"
            )
        first = min(range(len(levels)), key=lambda i: abs(math.log(levels[i] / sigma)))
        if first == 0:
            raise ValueError(
                f"expected a start from which two or more steps remain, found noise level {sigma:.6g}, at "
                f"the schedule's cleanest step, {levels[0]:.6g}: start at a higher time, or keep more steps "
                "(respacing)"
            )
        kept = _respaced_to(first, respacing) if whole else tuple(timesteps)[: first + 1]
        return DiscreteSchedule(self.original_betas, kept)

    @property
    def original_num_steps(self) -> int:
        return len(self.original_betas)

    @cached_property
    def original_alphas_cumprod(self) -> tuple[float, ...]:
        """abar of every timestep of the original diffusion."""
        return tuple(accumulate((1 - beta for beta in self.original_betas), mul))

    @cached_property
    def betas(self) -> tuple[float, ...]:
        """The betas between a kept step and the next cleaner kept step: 1 - abar / abar_prev."""
        kept = [1.0, *(self.original_alphas_cumprod[step] for step in self.timestep_map)]
        return tuple(1 - after / before for before, after in pairwise(kept))

    @cached_property
    def alphas_cumprod(self) -> tuple[float, ...]:
        """abar: y = sqrt(abar) x0 + sqrt(1 - abar) z."""
        return tuple(accumulate((1 - beta for beta in self.betas), mul))

    @cached_property
    def alphas_cumprod_prev(self) -> tuple[float, ...]:
        """abar of the next cleaner index; 1 at index 0."""
        return (1.0, *self.alphas_cumprod[:-1])

    @cached_property
    def sigmas(self) -> tuple[float, ...]:
        """EDM noise levels, increasing: sqrt(1 / abar - 1)."""
        return tuple(math.sqrt(1 / abar - 1) for abar in self.alphas_cumprod)

    @cached_property
    def original_sigmas(self) -> tuple[float, ...]:
        """EDM noise levels of every timestep of the original diffusion, increasing."""
        return tuple(math.sqrt(1 / abar - 1) for abar in self.original_alphas_cumprod)

    @cached_property
    def posterior_variance(self) -> tuple[float, ...]:
        """Variance of y_{i-1} given y_i and x0 (Ho et al. 2020, equation 7); 0 at index 0."""
        rows = zip(self.betas, self.alphas_cumprod, self.alphas_cumprod_prev, strict=True)
        return tuple(beta * (1 - before) / (1 - abar) for beta, abar, before in rows)

    @cached_property
    def posterior_log_variance_clipped(self) -> tuple[float, ...]:
        """Logarithm of `posterior_variance`. Index 0, where no noise is added, has the value of index 1
        instead of -infinity.
        """
        return tuple(map(math.log, (self.posterior_variance[1], *self.posterior_variance[1:])))

    @cached_property
    def posterior_mean_coef1(self) -> tuple[float, ...]:
        """Factor of x0 in the mean of y_{i-1} given y_i and x0."""
        rows = zip(self.betas, self.alphas_cumprod, self.alphas_cumprod_prev, strict=True)
        return tuple(beta * math.sqrt(before) / (1 - abar) for beta, abar, before in rows)

    @cached_property
    def posterior_mean_coef2(self) -> tuple[float, ...]:
        """Factor of y_i in the mean of y_{i-1} given y_i and x0."""
        rows = zip(self.betas, self.alphas_cumprod, self.alphas_cumprod_prev, strict=True)
        return tuple((1 - before) * math.sqrt(1 - beta) / (1 - abar) for beta, abar, before in rows)

    def tau_after(self, timestep: int) -> float:
        """A linear-VP time between the times of `timestep` and `timestep` + 1 of the original diffusion,
        half-way in log sigma.

        A window or switch that begins at this time equals the published "t > timestep" exactly, with any
        sampler. For the last few timesteps, whose noise levels (up to 157) exceed those of linear VP, the
        time is above 1. Raises ValueError unless both timesteps exist.
        """
        if not 0 <= timestep < self.original_num_steps - 1:
            raise ValueError(
                f"expected a timestep in 0 .. {self.original_num_steps - 2}, found {timestep}: no timestep "
                "lies beyond it"
            )
        return tau_from_sigma(math.sqrt(self.original_sigmas[timestep] * self.original_sigmas[timestep + 1]))

    def timesteps_from_sigma(self, scale: float = 1.0) -> TimeMap:
        """The map from noise levels [B] to timesteps of the original diffusion, multiplied by `scale`, for
        networks trained on this diffusion.

        The map is linear in log sigma between timesteps and, up to float32 rounding, exact at their levels;
        levels outside map to the first or the last timestep. `scale` is 1 for networks that take timesteps,
        1 / (original_num_steps - 1) for discriminators that take times in [0, 1], and 1000 /
        original_num_steps for networks trained with rescaled timesteps.
        """
        log_sigmas = tuple(math.log(sigma) for sigma in self.original_sigmas)

        def time(sigma: Tensor) -> Tensor:
            log_sigma, levels = sigma.double().log(), table(log_sigmas, sigma.device)
            above = torch.searchsorted(levels, log_sigma.contiguous()).clamp(1, len(log_sigmas) - 1)
            below = levels[above - 1]
            timestep = (above - 1) + (log_sigma - below) / (levels[above] - below)
            return scale * timestep.clamp(0, len(log_sigmas) - 1)

        return time


DDPM_LINEAR = DiscreteSchedule.of("linear")
"""The schedule of Ho et al. 2020. Published windows and switches refer to its timesteps."""


@cache
def table(values: tuple[float, ...], device: torch.device) -> Tensor:
    """`values` as a float64 tensor, cached per device. The first call copies from the host, so make it
    outside a CUDA graph.
    """
    return torch.tensor(values, dtype=torch.float64, device=device)


def _respaced_to(last: int, respacing: str | Sequence[int]) -> tuple[int, ...]:
    """The timesteps from 0 to `last` that a run keeps, including `last`."""
    kept = respaced_timesteps(last + 1, respacing)
    short = last - kept[-1]
    if short and not (isinstance(respacing, str) and respacing.startswith("ddim")):
        raise ValueError(
            "expected respacing with two or more steps in the last section, so that a run begins at its "
            f"start, found {respacing!r}, whose highest step would be {short} timesteps below the start"
        )
    return tuple(step + short for step in kept)


def _count(text: str, respacing: str | Sequence[int]) -> int:
    if not text.strip().isdecimal():
        raise ValueError(f'expected respacing like "250", "ddim25" or "10,20,30", found {respacing!r}')
    return int(text)
