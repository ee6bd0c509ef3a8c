"""Restart sampling with guidance: at some noise levels, Heun's method adds noise and solves again (Xu et al.
2023, "Restart Sampling for Improving Generative Processes", Algorithm 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dgflow.diffusion.churn import Churn, gamma_of
from dgflow.diffusion.guidance import Guide, boosts_of
from dgflow.diffusion.heun import HeunPath, rounded_levels
from dgflow.diffusion.paths import Path, State
from dgflow.diffusion.ranges import rho_levels
from dgflow.diffusion.restart_settings import RestartInterval, placed
from dgflow.diffusion.rows import Rows
from dgflow.diffusion.samplers import Denoiser, Noise, RoundSigma
from dgflow.diffusion.times import per_sample


class Move(NamedTuple):
    """The steps between two positions.

    Args:
        first: index of the first step in the solver's levels.
        steps: number of steps.
        added: standard deviation of the noise that a restart adds before the steps; None for a step of the
            schedule.
    """

    first: int
    steps: int = 1
    added: float | None = None


@dataclass(frozen=True)
class RestartPath(Path):
    """Heun's method with restarts.

    Each repetition of a restart is a move from a level to the same level. The first draw is noise up to
    `sigma_max`; each step back down takes one draw for churn. `Point.step` counts the steps of a restart from
    0. Without restarts, the path is bit-identical to `HeunPath`.

    Args:
        solver: the solver of all steps; its levels are the schedule's, followed by those of every restart.
        levels: noise level of every position.
        moves: the move from every position except the last.
    """

    solver: HeunPath
    levels: Sequence[float]
    moves: Sequence[Move]

    @classmethod
    def of(
        cls,
        denoiser: Denoiser,
        sigmas: Sequence[float],
        device: torch.device,
        restarts: Sequence[RestartInterval],
        *,
        rho: float = 7.0,
        restart_gamma: float = 0.0,
        guidance: Sequence[Guide] = (),
        churn_steps: int | None = None,
        round_sigma: RoundSigma | None = None,
        S_churn: float = 0.0,
        S_min: float = 0.0,
        S_max: float = math.inf,
        S_noise: float = 1.0,
    ) -> RestartPath:
        """Build the path from the arguments of `heun` and the following ones.

        Args:
            restarts: the restarts, at the levels that `placed` chooses.
            rho: exponent of the levels within restarts.
            restart_gamma: relative increase of the level by churn in a restart's steps, between S_min and
                S_max; S_churn applies to the schedule's steps.
            S_noise: factor on the noise of churn and of restarts.

        Raises ValueError for levels that do not decrease, and for restarts that match none of them.
        """
        main = rounded_levels(sigmas, round_sigma, device)
        churn_steps = len(main) - 1 if churn_steps is None else churn_steps
        levels, numbers = list(main), list(range(len(main)))
        positions, moves = list[float](), list[Move]()
        places = placed(main, restarts)
        for place, level in enumerate(main):
            if (restart := places.get(place)) is not None:
                # Exactly the schedule's level, from which the formula differs by rounding.
                within = (*rho_levels(restart.points, level, restart.sigma_max, rho)[:-1], level)
                within = rounded_levels(within, round_sigma, device)
                added = S_noise * math.sqrt((within[0] - level) * (within[0] + level))
                moves += [Move(len(levels), restart.points - 1, added)] * restart.repeats
                positions += [level] * restart.repeats
                levels += within
                numbers += range(restart.points)
            positions.append(level)
            moves.append(Move(place))
        gammas = [gamma_of(S_churn, churn_steps)] * len(main) + [restart_gamma] * (len(levels) - len(main))
        options: dict[str, Any] = {"S_churn": S_churn, "S_min": S_min, "S_max": S_max, "S_noise": S_noise}
        churn = Churn(
            levels,
            boosts_of(guidance),
            round_sigma,
            device,
            steps=churn_steps,
            gammas=gammas,
            numbers=numbers,
            **options,
        )
        return cls(HeunPath(denoiser, levels, guidance, churn), positions, moves[:-1])

    @property
    def guidance(self) -> Sequence[Guide]:
        return self.solver.guidance

    @property
    def draws(self) -> Sequence[int]:
        return [move.steps + (move.added is not None) for move in self.moves]

    @property
    def evaluations(self) -> Sequence[int]:
        own = self.solver.evaluations
        return [sum(own[move.first : move.first + move.steps]) for move in self.moves]

    @torch.no_grad()
    def move(
        self,
        state: State,
        at: Sequence[int],
        class_labels: Tensor | None,
        noise: Noise | None,
        spread: Sequence[bool] | None = None,
    ) -> State:
        """See `Path.move`. In a restart, copies diverge by its noise, without extra churn."""
        rows = Rows.at(at, state.x.device, spread)
        moves = [self.moves[position] for position in rows.positions]
        restarted = [move.added is not None for move in moves]
        if any(move.added for move in moves):
            if noise is None:
                raise ValueError(
                    "expected noise, since Restart adds noise, found None: pass a function of the draw"
                )
            added = rows.each([move.added or 0.0 for move in moves])
            state = state.with_x(state.x + per_sample(added, state.x) * noise(0).double())
        parting = [part and not again for part, again in zip(rows.spread, restarted, strict=True)]
        spread = rows.listed(parting) if any(parting) else None
        for number in range(max(move.steps for move in moves)):
            places = rows.listed([move.first + min(number, move.steps - 1) for move in moves])
            own = None if noise is None else partial(_churn_noise, noise, rows, restarted, number)
            after = self.solver.move(state, places, class_labels, own, spread)
            due = [number < move.steps for move in moves]
            if not all(due):
                # The other rows have finished their move. They are evaluated too, so that all batches have
                # the same size, and the results are discarded.
                index = [row for row, still in enumerate(rows.listed(due)) if still]
                after = state.put(index, after.rows(index))
            state = after
        return state


def _churn_noise(noise: Noise, rows: Rows, restarted: Sequence[bool], number: int, _: int) -> Tensor:
    """The normals for churn in step `number` of the moves; restarting groups have taken one draw before."""
    if number > 0 or all(restarted):
        return noise(number + 1)
    if not any(restarted):
        return noise(0)
    first, second = noise(0), noise(1)
    return torch.where(per_sample(rows.where(restarted), first), second, first)
