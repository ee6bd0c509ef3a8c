"""Specs of EDM's samplers, for recipes: `Heun` and `EDMAblation`, which choose noise levels in a range."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from dgflow.diffusion.linear_vp import LINEAR_VP
from dgflow.diffusion.ranges import EDM_RANGE, ROUNDING, check_range, default_range
from dgflow.diffusion.sampler_specs import PathSampler
from dgflow.specs.spec import Grid

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from dgflow.diffusion.paths import Path
    from dgflow.diffusion.sampler_specs import Terms
    from dgflow.diffusion.samplers import Start
    from dgflow.diffusion.score_model import ScoreModel


class LevelSampler(PathSampler):
    """A sampler between two noise levels. `sigma_min` and `sigma_max` None take the sampler's defaults,
    narrowed to the network's range.

    EDM's stochasticity: between `S_min` and `S_max`, noise raises the level by the fraction `S_churn` /
    `steps` and is removed again.
    """

    S_churn: float = Field(default=0.0, ge=0)
    S_min: float = Field(default=0.0, ge=0)
    S_max: float | None = Field(default=None, ge=0)  # None: no upper end
    S_noise: float = Field(default=1.0, ge=0)
    steps: int = Field(default=18, gt=1)
    sigma_min: float | None = Field(default=None, gt=0)
    sigma_max: float | None = Field(default=None, gt=0)
    rho: float = Field(default=7.0, gt=0)

    @model_validator(mode="after")
    def _falls(self) -> Self:
        check_range("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        if self.S_max is not None and self.S_min > self.S_max:
            raise ValueError(
                f"expected S_min <= S_max, found {self.S_min} and {self.S_max}: no step would be stochastic"
            )
        return self

    @property
    def moves(self) -> int:
        return self.steps

    def toy(self) -> Self:
        return self.model_copy(update={"steps": min(6, self.steps)})

    def churn(self, model: ScoreModel) -> dict[str, Any]:
        """Keyword arguments for the samplers' functions and paths."""
        top = float("inf") if self.S_max is None else self.S_max
        levels = {"S_churn": self.S_churn, "S_min": self.S_min, "S_max": top, "S_noise": self.S_noise}
        return levels | {"churn_steps": self.steps, "round_sigma": model.round_sigma}

    @property
    def own_range(self) -> tuple[float, float]:
        """The defaults of (sigma_min, sigma_max)."""
        return EDM_RANGE

    @property
    def widest_range(self) -> tuple[float, float]:
        return self._limits(self.own_range)

    def nfe_from(self, tau: float, grid: Grid) -> int:
        if grid == "whole":
            return self.nfe
        low, high = self._limits(self.own_range)
        bottom, first, top = (level ** (1 / self.rho) for level in (low, LINEAR_VP.level(tau), high))
        behind = math.ceil((self.steps - 1) * (first - bottom) / (top - bottom) * (1 - ROUNDING))
        steps = 1 + behind
        return self.model_copy(update={"steps": steps}).nfe

    def check_start(self, tau: float) -> None:
        super().check_start(tau)
        low, high = self._limits(self.own_range)
        if not low < LINEAR_VP.level(tau) <= high * (1 + ROUNDING):
            raise ValueError(
                f"expected a start after linear-VP time {LINEAR_VP.time(low):.4g} and up to "
                f"{LINEAR_VP.time(high):.4g}, the range of {type(self).__name__}'s steps (noise levels "
                f"{low:g} to {high:g}), found {tau:g} (noise level {LINEAR_VP.level(tau):.6g}): start at "
                "another time, or set the sampler's sigma_min and sigma_max"
            )

    def levels(
        self, model: ScoreModel, start: Start | None, between: Callable[[float, float], tuple[float, ...]]
    ) -> tuple[float, ...]:
        """The levels of a run, ending in 0; `between` makes the levels from the lowest to the highest.

        Raises ValueError for levels outside the network's range.
        """
        low, high = self.span(model)
        if start is None:
            sigmas = between(low, high)
        else:
            sigmas = model.levels_from(start, lambda top: between(low, top), (low, high))
        model.check_sigmas(sigmas[:-1])
        return sigmas

    def span(self, model: ScoreModel) -> tuple[float, float]:
        """The range (sigma_min, sigma_max) for `model`."""
        return self._limits(model.narrowed(*self.own_range))

    def _limits(self, own: tuple[float, float]) -> tuple[float, float]:
        low, high = own
        return (
            low if self.sigma_min is None else self.sigma_min,
            high if self.sigma_max is None else self.sigma_max,
        )


class Heun(LevelSampler):
    """EDM's second-order sampler (Karras et al. 2022, Algorithm 2); 2 * steps - 1 evaluations of the
    denoiser.

    `sigma_min` and `sigma_max` None take 0.002 and 80, narrowed to the network's range.
    """

    @model_validator(mode="after")
    def _has_levels(self) -> Self:
        low, high = EDM_RANGE
        if self.sigma_min is None:
            check_range("sigma_min (by default)", low, "sigma_max", self.sigma_max)
        if self.sigma_max is None:
            check_range("sigma_min", self.sigma_min, "sigma_max (by default)", high)
        return self

    @property
    def nfe(self) -> int:
        return 2 * self.steps - 1

    @property
    def second_order_share(self) -> float:
        return 0.5

    def path(self, model: ScoreModel, terms: Terms, device: torch.device, start: Start | None = None) -> Path:
        from dgflow.diffusion.heun import HeunPath, edm_sigmas

        sigmas = self.levels(model, start, lambda low, high: edm_sigmas(self.steps, low, high, self.rho))
        return HeunPath.of(model.denoiser, sigmas, device, guidance=terms, **self.churn(model))


class EDMAblation(LevelSampler):
    """EDM's general sampler (Karras et al. 2022, Table 1): its discretisations, schedules, scalings and
    solvers in any combination.

    `sigma_min` and `sigma_max` None take the discretisation's range, narrowed to the network's range.
    """

    solver: Literal["euler", "heun"] = "heun"
    discretization: Literal["vp", "ve", "iddpm", "edm"] = "edm"
    schedule: Literal["vp", "ve", "linear"] = "linear"
    scaling: Literal["vp", "none"] = "none"
    alpha: float = Field(default=1.0, gt=0, le=1)

    @property
    def own_range(self) -> tuple[float, float]:
        return default_range(self.discretization)

    @property
    def nfe(self) -> int:
        return self.steps if self.solver == "euler" else 2 * self.steps - 1

    @property
    def second_order_share(self) -> float:
        return 0.5 / self.alpha if self.solver == "heun" else 0.0

    def path(self, model: ScoreModel, terms: Terms, device: torch.device, start: Start | None = None) -> Path:
        from dgflow.diffusion.ablation import AblationPath, ablation_sigmas

        def between(low: float, high: float) -> tuple[float, ...]:
            return ablation_sigmas(self.steps, self.discretization, low, high, rho=self.rho)

        sigmas = self.levels(model, start, between)
        options: dict[str, Any] = self.churn(model) | {"solver": self.solver, "alpha": self.alpha}
        options |= {"schedule": self.schedule, "scaling": self.scaling, "vp_range": self.span(model)}
        return AblationPath.of(model.denoiser, sigmas, device, guidance=terms, **options)
