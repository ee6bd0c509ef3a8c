"""EDM's churn: noise that is added before a step and removed in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgflow.diffusion.guidance import LogRatios
from dgflow.diffusion.guidance_settings import Boost
from dgflow.diffusion.rows import Rows
from dgflow.diffusion.samplers import Noise, RoundSigma, rounded

MAX_GAMMA = math.sqrt(2.0) - 1.0


def gamma_of(S_churn: float, steps: int) -> float:
    """The relative increase of the noise level by churn, for `steps` steps."""
    return min(S_churn / steps, MAX_GAMMA)


@dataclass(frozen=True)
class Raised:
    """The levels sigma [B] to which churn raises a step's samples, the highest possible level of each group,
    and the standard deviation [B] of the noise to add, including S_noise.
    """

    sigma: Tensor
    highest: Sequence[float]
    added: Tensor


class Churn:
    """EDM's churn (Karras et al. 2022, Algorithm 2, lines 4 to 6) along a schedule, with the boosts of
    guidance terms.

    Args:
        levels: the schedule, rounded for the network.
        boosts: boost of every entry of guidance; None for an entry without one.
        round_sigma: rounds levels for the network; None for no rounding.
        steps: number of steps among which S_churn is divided; None for the steps of `levels`.
        gammas: gamma of the step at every level, see `gamma_of`; None to derive it from S_churn for all.
        numbers: step number at every level, by which boosts choose steps; None for 0, 1, 2, ...
        S_churn, S_min, S_max, S_noise: as in the paper. A boost replaces S_churn and S_noise for the samples
            that it churns.
    """

    def __init__(
        self,
        levels: Sequence[float],
        boosts: Sequence[Boost | None],
        round_sigma: RoundSigma | None,
        device: torch.device,
        *,
        steps: int | None = None,
        gammas: Sequence[float] | None = None,
        numbers: Sequence[int] | None = None,
        S_churn: float,
        S_min: float,
        S_max: float,
        S_noise: float,
    ) -> None:
        self.levels, self.boosts, self.round_sigma = levels, boosts, round_sigma
        self.steps = len(levels) - 1 if steps is None else steps
        self.S_min, self.S_max, self.S_noise = S_min, S_max, S_noise
        self.gammas = [gamma_of(S_churn, self.steps)] * len(levels) if gammas is None else gammas
        self.numbers = range(len(levels)) if numbers is None else numbers
        boosted = {gamma_of(boost.S_churn, self.steps) for boost in boosts if boost is not None}
        all_gammas = {*self.gammas} | boosted
        self.adds_noise: bool = max(all_gammas) > 0.0
        # The highest level of every step, by gamma, computed on the host before the first step.
        self.highest = {
            gamma: rounded([level * (1.0 + gamma) for level in levels], round_sigma, device)
            for gamma in all_gammas | {MAX_GAMMA}
            if gamma > 0.0
        }

    def check(self, noise: Noise | None) -> None:
        """Raise ValueError if churn can add noise and `noise` is missing."""
        if self.adds_noise and noise is None:
            raise ValueError(
                "expected churn_noise, as S_churn or a term's boost adds noise: pass a function of the "
                "step, or set S_churn to 0"
            )

    def __call__(self, rows: Rows, log_ratios: LogRatios) -> Raised | None:
        """The raised levels of a step, given the log-ratios of the previous step; None if no row changes.
        Rows that must diverge get `MAX_GAMMA`.
        """
        acts = [self.S_min <= self.levels[position] <= self.S_max for position in rows.positions]
        if not any(acts):
            return None
        level = rows.of(self.levels)
        most = [self.gammas[position] for position in rows.positions]
        gamma, scale = rows.of(self.gammas), torch.full_like(level, self.S_noise)
        for boost, log_ratio in zip(self.boosts, log_ratios, strict=True):
            if boost is None or log_ratio is None:
                continue
            due = [self.numbers[position] % boost.churn_period == 0 for position in rows.positions]
            if any(due):
                boosted = gamma_of(boost.S_churn, self.steps)
                fake = (log_ratio < 0) & rows.where(due)
                gamma = torch.where(fake, boosted, gamma)
                scale = torch.where(fake, boost.S_noise, scale)
                most = [max(own, boosted) if now else own for own, now in zip(most, due, strict=True)]
        if any(rows.spread):
            gamma = torch.where(rows.where(rows.spread), MAX_GAMMA, gamma)
            most = [MAX_GAMMA if part else own for own, part in zip(most, rows.spread, strict=True)]
        if max(most) == 0.0:
            return None
        if not all(acts):
            gamma = torch.where(rows.where(acts), gamma, 0.0)
        sigma = level * (1.0 + gamma)
        if self.round_sigma is None:
            added = level * torch.sqrt(gamma * (2.0 + gamma))  # sqrt(sigma^2 - level^2), without cancellation
        else:
            sigma = self.round_sigma(sigma)
            added = ((sigma - level) * (sigma + level)).clamp_min(0.0).sqrt()
        highest = [
            self.highest[own][position] if act and own > 0.0 else self.levels[position]
            for position, act, own in zip(rows.positions, acts, most, strict=True)
        ]
        return Raised(sigma, highest, added * scale)
