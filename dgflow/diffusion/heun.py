"""EDM's stochastic sampler with guidance: Heun's method with churn (Karras et al. 2022, Algorithm 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dgflow.diffusion.adviser import Adviser
from dgflow.diffusion.churn import Churn
from dgflow.diffusion.evaluation import OfDenoiser
from dgflow.diffusion.guidance import Guide, LogRatios, boosts_of
from dgflow.diffusion.paths import Path, State, walk
from dgflow.diffusion.ranges import rho_levels
from dgflow.diffusion.rows import Levels, Rows
from dgflow.diffusion.samplers import Denoiser, Noise, RoundSigma, Sample, rounded
from dgflow.diffusion.times import per_sample


def edm_sigmas(
    num_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> tuple[float, ...]:
    """The noise levels of Karras et al. 2022, equation 5: `num_steps` levels from sigma_max down to
    sigma_min, then 0.0.
    """
    if num_steps < 2 or not 0.0 < sigma_min < sigma_max < math.inf or not rho > 0.0:
        found = f"num_steps={num_steps}, sigma_min={sigma_min}, sigma_max={sigma_max}, rho={rho}"
        raise ValueError(f"expected num_steps >= 2, 0 < sigma_min < sigma_max and rho > 0, found {found}")
    return *rho_levels(num_steps, sigma_min, sigma_max, rho), 0.0


def heun(
    denoiser: Denoiser,
    latents: Tensor,
    sigmas: Sequence[float],
    *,
    images: Tensor | None = None,
    class_labels: Tensor | None = None,
    guidance: Sequence[Guide] = (),
    churn_noise: Noise | None = None,
    churn_steps: int | None = None,
    round_sigma: RoundSigma | None = None,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
) -> Sample:
    """Heun's method with churn, Algorithm 2 of Karras et al. 2022, guided: d = (x - denoised) / sigma - sigma
    * sum of gradients.

    Args:
        latents: unit normals [B, ...]; scaled by sigmas[0] here.
        sigmas: decreasing noise levels; a last level of 0 is reached by an Euler step.
        images: clean images [B, ...] to which the scaled latents are added; None to start from noise, as
            published.
        round_sigma: rounds the schedule and the levels raised by churn, for a network with discrete levels.
        class_labels: passed to denoiser and guidance.
        guidance: terms whose gradients are summed; see `guidance.GuidanceTerm`.
        churn_noise: unit normals [B, ...] by step. Called at most once per step and only if noise can be
            added; a stateful stream must skip the other steps (the original code draws in every step).
        churn_steps: number of steps among which S_churn is divided, for the last levels of a longer schedule;
            None for the steps of `sigmas`.
        S_churn, S_min, S_max, S_noise: as in the paper. A term's boost replaces S_churn and S_noise for the
            samples that it churns.

    Raises ValueError for levels that do not decrease, and for churn without `churn_noise`.
    """
    path = HeunPath.of(
        denoiser,
        sigmas,
        latents.device,
        guidance=guidance,
        churn_steps=churn_steps,
        round_sigma=round_sigma,
        S_churn=S_churn,
        S_min=S_min,
        S_max=S_max,
        S_noise=S_noise,
    )
    path.churn.check(churn_noise)
    return walk(path, latents, images=images, class_labels=class_labels, noise=churn_noise)


@dataclass(frozen=True)
class HeunPath(Path):
    """The path of `heun`: one move per step, with one draw for churn.

    Args:
        levels: decreasing noise levels, rounded for the network; the last one may be 0.
    """

    denoiser: Denoiser
    levels: Sequence[float]
    guidance: Sequence[Guide]
    churn: Churn

    @classmethod
    def of(
        cls,
        denoiser: Denoiser,
        sigmas: Sequence[float],
        device: torch.device,
        *,
        guidance: Sequence[Guide] = (),
        churn_steps: int | None = None,
        round_sigma: RoundSigma | None = None,
        S_churn: float = 0.0,
        S_min: float = 0.0,
        S_max: float = math.inf,
        S_noise: float = 1.0,
    ) -> HeunPath:
        """Build the path from the arguments of `heun`."""
        levels = rounded_levels(sigmas, round_sigma, device)
        options: dict[str, Any] = {"S_churn": S_churn, "S_min": S_min, "S_max": S_max, "S_noise": S_noise}
        churn = Churn(levels, boosts_of(guidance), round_sigma, device, steps=churn_steps, **options)
        return cls(denoiser, levels, guidance, churn)

    @property
    def draws(self) -> Sequence[int]:
        return [1] * (len(self.levels) - 1)

    @property
    def evaluations(self) -> Sequence[int]:
        return [2 if level > 0.0 else 1 for level in self.levels[1:]]

    @torch.no_grad()
    def move(
        self,
        state: State,
        at: Sequence[int],
        class_labels: Tensor | None,
        noise: Noise | None,
        spread: Sequence[bool] | None = None,
    ) -> State:
        rows, x = Rows.at(at, state.x.device, spread), state.x
        begin = here = rows.levels(self.levels)
        raised = None if noise is None else self.churn(rows, state.previous)
        if raised is not None and noise is not None:
            x = x + per_sample(raised.added, x) * noise(0).double()
            lows = (low for low, _ in here.groups)
            begin = Levels(raised.sigma, list(zip(lows, raised.highest, strict=True)))
        adviser = Adviser(self.guidance, class_labels, rows, self.churn.numbers, here)
        slope = Slope(self.denoiser, adviser)
        x, log_ratios = heun_step(slope, x, begin, rows.levels(self.levels, 1))
        return state.moved(x, log_ratios, adviser.evaluations)


def rounded_levels(
    sigmas: Sequence[float], round_sigma: RoundSigma | None, device: torch.device
) -> list[float]:
    """Round the levels for the network. Raises ValueError for levels that do not decrease."""
    levels = rounded([float(sigma) for sigma in sigmas], round_sigma, device)
    falling = all(a > b for a, b in pairwise(levels))
    if len(levels) < 2 or not falling or levels[-1] < 0.0 or not math.isfinite(levels[0]):
        raise ValueError(f"expected two or more decreasing, finite noise levels >= 0, found {levels}")
    return levels


class Slope:
    """The slope dx/dsigma of the guided ODE in one step."""

    def __init__(self, denoiser: Denoiser, adviser: Adviser) -> None:
        self.network, self.adviser = OfDenoiser(denoiser), adviser

    def __call__(
        self, x: Tensor, levels: Levels, order: int, taking_part: Sequence[bool] | None = None
    ) -> tuple[Tensor, LogRatios]:
        """(slope, log-ratios) of x at noise levels; see `Adviser`."""
        advice, _ = self.adviser(self.network, (x,), levels, order, taking_part)
        sigma = per_sample(levels.sigma, x)
        d = (x - advice.denoised) / sigma
        if advice.gradient is not None:
            d = d - sigma * advice.gradient
        return d, advice.log_ratios


def heun_step(slope: Slope, x: Tensor, begin: Levels, end: Levels) -> tuple[Tensor, LogRatios]:
    """(x at the levels `end`, log-ratios of the first order); rows that end at 0 take an Euler step."""
    d, log_ratios = slope(x, begin, 1)
    h = per_sample(end.sigma - begin.sigma, x)
    x_next = x + h * d
    low, high = end.bounds
    if high == 0.0:
        return x_next, log_ratios
    if low > 0.0:
        d_next, _ = slope(x_next, end, 2)
        return x + h * (0.5 * d + 0.5 * d_next), log_ratios
    # Rows that have reached level 0 are evaluated at the lowest level of the others; the result is discarded.
    on_the_way = end.sigma > 0.0
    taking_part = [level > 0.0 for level, _ in end.groups]
    least = min(level for level, _ in end.groups if level > 0.0)
    inner = Levels(
        torch.where(on_the_way, end.sigma, least),
        [own if part else (least, least) for own, part in zip(end.groups, taking_part, strict=True)],
    )
    d_next, _ = slope(x_next, inner, 2, taking_part)
    corrected = x + h * (0.5 * d + 0.5 * d_next)
    return torch.where(per_sample(on_the_way, x), corrected, x_next), log_ratios
