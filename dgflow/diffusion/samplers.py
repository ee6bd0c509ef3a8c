"""The forms of denoiser, noise predictor and result that all samplers share, and churn.

A sampler is a plain function of (denoiser or predictor, latents, schedule). Its state is float64; its
schedule is Python floats and its noise levels are per sample on the device, so that no step waits for the
device. A sample's result does not depend on its batch mates (as far as the networks' own arithmetic does
not). Networks, random numbers and guidance terms are the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgflow.diffusion.guidance import LogRatios
from dgflow.diffusion.guidance_settings import Boost
from dgflow.diffusion.times import per_sample
from dgflow.specs.spec import Grid

Denoiser = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x [B, ...] float64, sigma [B] float64, class labels) -> the expected clean x0, like x in shape, of any
float dtype."""

Predictor = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""(y [B, ...] float32, variance-preserving scaling y = x / sqrt(1 + sigma^2); time [B] float32 in the
network's own unit; class labels) -> (epsilon: the noise in y, like y; v: like y, the position of the reverse
step's log variance between its two bounds, -1 to 1, None for a network that learns none). ADM, DiT, NCSN++
and LSGM's prior have this form; `denoisers` makes a `Denoiser` of it."""

Noise = Callable[[int], Tensor]
"""Number of a step -> unit normals [B, ...]; a stream with state answers in rising order only."""

RoundSigma = Callable[[Tensor], Tensor]
"""Noise levels, any shape, float64 -> the nearest ones that a network knows, without a host sync."""

MAX_GAMMA = math.sqrt(2.0) - 1.0


@dataclass(frozen=True)
class Sample:
    """The result of a sampler.

    Args:
        x: the samples [B, ...] float64, not clipped.
        nfe: evaluations of the denoiser per sample.
        guidance_nfe: evaluations of guidance terms.
        log_ratio: [B] float64, the first-order log-ratio of each sample in its last step inside the window,
            by the first term that has one; OUTSIDE_LOG_RATIO (1e7) for a sample that was never inside; None
            if no term ever gave one.
    """

    x: Tensor
    nfe: int
    guidance_nfe: int
    log_ratio: Tensor | None


@dataclass(frozen=True)
class Start:
    """Clean images from which a sampler goes on (SDEdit, Meng et al. 2022): x = images + level * latents at
    its first level.

    Args:
        images: [B, ...] float64, in the units of the denoiser's clean x0.
        sigma: the first noise level. A sampler whose network or schedule knows some levels only begins at the
            nearest of these.
        grid: the levels behind it, see `Grid`. Without meaning for a solver that chooses its own steps.
    """

    images: Tensor
    sigma: float
    grid: Grid = "tail"


def noised(latents: Tensor, level: float | Tensor, images: Tensor | None) -> Tensor:
    """The state [B, ...] float64 at a noise level, a number or [B], of unit normals: alone, or on clean
    images."""
    scale = per_sample(level, latents) if isinstance(level, Tensor) else level
    noise = latents.double() * scale
    return noise if images is None else images.double() + noise


def rounded(levels: Sequence[float], round_sigma: RoundSigma | None, device: torch.device) -> list[float]:
    """Levels as the network knows them, except a last one of 0, on the host: one wait for the device before
    the first step."""
    if round_sigma is None:
        return list(levels)
    known = levels[:-1] if levels[-1] == 0.0 else levels
    return [
        *round_sigma(torch.tensor(known, dtype=torch.float64, device=device)).tolist(),
        *levels[len(known) :],
    ]


@dataclass(frozen=True)
class Raised:
    """The levels sigma [B], at most `high`, that churn raises a step's samples to, and the standard
    deviation [B] of the noise to add for it, S_noise included."""

    sigma: Tensor
    high: float
    added: Tensor


class Churn:
    """EDM's churn (Karras et al. 2022, Algorithm 2, lines 4 to 6) along a schedule, with the boosts of
    guidance terms.

    Args:
        levels: the schedule, as the network knows it.
        noise, round_sigma: None where there is none.
        steps: number of steps that S_churn is divided among; None for those of `levels`.
        S_churn, S_min, S_max, S_noise: as in the paper. A boost replaces S_churn and S_noise for the samples
            that it churns.

    Raises ValueError if noise could be added and `noise` is None.
    """

    def __init__(
        self,
        levels: Sequence[float],
        boosts: Sequence[Boost | None],
        noise: Noise | None,
        round_sigma: RoundSigma | None,
        device: torch.device,
        *,
        steps: int | None = None,
        S_churn: float,
        S_min: float,
        S_max: float,
        S_noise: float,
    ) -> None:
        self.levels, self.boosts, self.noise, self.round_sigma = levels, boosts, noise, round_sigma
        self.steps = len(levels) - 1 if steps is None else steps
        self.S_churn, self.S_min, self.S_max, self.S_noise = S_churn, S_min, S_max, S_noise
        gammas = {
            self._gamma(asked)
            for asked in (S_churn, *(boost.S_churn for boost in boosts if boost is not None))
        }
        if max(gammas) > 0.0 and noise is None:
            raise ValueError(
                "expected churn_noise, as S_churn or a term's boost adds noise: pass a function of the "
                "step, or set S_churn to 0"
            )
        # The highest level of every step, by the gamma that makes it: on the host before the first step.
        self.highest = {
            gamma: rounded([level * (1.0 + gamma) for level in levels], round_sigma, device)
            for gamma in gammas
            if gamma > 0.0
        }

    def __call__(self, step: int, ones: Tensor, log_ratios: LogRatios) -> Raised | None:
        """The levels of a step, given ones [B] and the log-ratios of the step before; None if unchanged."""
        level = self.levels[step]
        if self.noise is None or not self.S_min <= level <= self.S_max:
            return None
        gamma_max = self._gamma(self.S_churn)
        gamma, scale = ones * gamma_max, ones * self.S_noise
        for boost, log_ratio in zip(self.boosts, log_ratios, strict=True):
            if boost is not None and log_ratio is not None and step % boost.churn_period == 0:
                boosted = self._gamma(boost.S_churn)
                gamma = torch.where(log_ratio < 0, boosted, gamma)
                scale = torch.where(log_ratio < 0, boost.S_noise, scale)
                gamma_max = max(gamma_max, boosted)
        if gamma_max == 0.0:
            return None
        sigma = level * (1.0 + gamma)
        if self.round_sigma is None:
            added = level * torch.sqrt(gamma * (2.0 + gamma))  # sqrt(sigma^2 - level^2), no difference
        else:
            sigma = self.round_sigma(sigma)
            added = ((sigma - level) * (sigma + level)).clamp_min(0.0).sqrt()
        return Raised(sigma, self.highest[gamma_max][step], added * scale)

    def _gamma(self, S_churn: float) -> float:
        return min(S_churn / self.steps, MAX_GAMMA)
