"""Spec of restart sampling, for recipes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from dgflow.diffusion.edm_sampler_specs import Heun
from dgflow.diffusion.linear_vp import LINEAR_VP
from dgflow.diffusion.ranges import ROUNDING, rho_levels
from dgflow.diffusion.restart_settings import RestartInterval, placed
from dgflow.specs.spec import Grid

if TYPE_CHECKING:
    import torch

    from dgflow.diffusion.guidance import Guide
    from dgflow.diffusion.paths import Path
    from dgflow.diffusion.samplers import Start
    from dgflow.diffusion.score_model import ScoreModel


class Restart(Heun):
    """Restart sampling (Xu et al. 2023): Heun's method that adds noise within intervals of noise levels and
    solves again.

    It evaluates the denoiser 2 * steps - 1 times, and 2 * repeats * (points - 1) times per interval. Without
    `restarts` it equals `Heun`.

    `S_noise` also multiplies the noise of restarts. `restart_gamma` is the churn within restarts: the
    relative increase of a step's level between `S_min` and `S_max`.

    For a run from a `start`, intervals that reach above it are omitted.
    """

    restarts: tuple[RestartInterval, ...] = ()
    restart_gamma: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _have_their_levels(self) -> Self:
        levels = self._own_levels
        placed(levels, self.restarts)
        places = [restart.place(levels) for restart in self.restarts]
        for number, (restart, place) in enumerate(zip(self.restarts, places, strict=True)):
            if place == 0 or place in places[number + 1 :]:
                taken = "shared with a later restart" if place else "the first level, before any step"
                raise ValueError(
                    f"expected restarts of different noise levels, found one of {levels[place]:.4g} "
                    f"(sigma_min {restart.sigma_min:g}), {taken}: use more steps, or fewer restarts"
                )
        return self

    @property
    def nfe(self) -> int:
        return self._evaluations(self._own_levels, self.restarts)

    @property
    def moves(self) -> int:
        return super().moves + self.repeats

    @property
    def repeats(self) -> int:
        """The total number of restarts."""
        return sum(restart.repeats for restart in placed(self._own_levels, self.restarts).values())

    def nfe_from(self, tau: float, grid: Grid) -> int:
        first, (*own, _) = LINEAR_VP.level(tau), self._own_levels
        if grid == "whole":
            levels = rho_levels(self.steps, own[-1], first, self.rho)
        else:
            levels = (first, *(level for level in own if level < first * (1 - ROUNDING)))
        return self._evaluations((*levels, 0.0), _within(first, self.restarts))

    def toy(self) -> Self:
        """The sampler in smoke runs: few steps, and a short restart at every remaining level."""
        few = self.model_copy(update={"steps": min(6, self.steps), "restarts": ()})
        levels = few._own_levels
        last = {restart.place(levels): restart for restart in self.restarts}
        kept = tuple(
            restart.model_copy(update={"points": min(3, restart.points), "repeats": 1})
            for place, restart in last.items()
            if place and 0.0 < levels[place] < restart.sigma_max
        )
        return few.model_copy(update={"restarts": kept})

    def path(
        self, model: ScoreModel, terms: Sequence[Guide], device: torch.device, start: Start | None = None
    ) -> Path:
        from dgflow.diffusion.heun import edm_sigmas
        from dgflow.diffusion.restart import RestartPath

        sigmas = self.levels(model, start, lambda low, high: edm_sigmas(self.steps, low, high, self.rho))
        restarts = self.restarts if start is None else _within(sigmas[0], self.restarts)
        options: dict[str, Any] = self.churn(model) | {"rho": self.rho, "restart_gamma": self.restart_gamma}
        path = RestartPath.of(model.denoiser, sigmas, device, restarts, guidance=terms, **options)
        model.check_sigmas([level for level in path.solver.levels if level > 0.0])
        return path

    @property
    def _own_levels(self) -> tuple[float, ...]:
        """The schedule's levels, ending in 0, for a network that supports all of them."""
        return *rho_levels(self.steps, *self._limits(self.own_range), self.rho), 0.0

    @staticmethod
    def _evaluations(levels: Sequence[float], restarts: Sequence[RestartInterval]) -> int:
        return 2 * len(levels) - 3 + sum(restart.nfe for restart in placed(levels, restarts).values())


def _within(highest: float, restarts: Sequence[RestartInterval]) -> tuple[RestartInterval, ...]:
    """The restarts that do not exceed the noise level `highest`."""
    return tuple(restart for restart in restarts if restart.sigma_max <= highest * (1 + ROUNDING))
