"""Specs of samplers, for recipes: frozen values whose `sample` runs with torch.

Every sampler supports every guidance term, and every score network that covers its noise levels.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dgflow.diffusion.linear_vp import LINEAR_VP
from dgflow.diffusion.ranges import EDM_RANGE, ROUNDING, default_range
from dgflow.specs.spec import LATER, Grid, SmokeRun, Spec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import Tensor

    from dgflow.diffusion.guidance import Guide
    from dgflow.diffusion.paths import Path
    from dgflow.diffusion.samplers import Noise, Sample, Start
    from dgflow.diffusion.score_model import ScoreModel

    Terms = Sequence[Guide]


Respacing = Annotated[str, Field(pattern=r"^(ddim[1-9]\d*|(0,)*[1-9]\d*(,(0|[1-9]\d*))*)?$")]
"""The steps of a schedule to use: "250" are evenly spaced; "10,20,30" are the numbers in equal sections (0
for none); "ddim25" are at a fixed stride; "" is all.
"""


class SamplerSpec(Spec, ABC):
    """Base of all samplers. Subclasses outside this package work like those in it."""

    @property
    @abstractmethod
    def nfe(self) -> int:
        """Evaluations of the score network per sample."""

    @abstractmethod
    def sample(
        self,
        model: ScoreModel,
        latents: Tensor,
        class_labels: Tensor | None,
        terms: Terms,
        noise: Noise,
        start: Start | None = None,
    ) -> Sample:
        """Draw one batch.

        Args:
            latents: unit normals [B, C, H, W] float64.
            class_labels: int64 [B]; None for an unconditional network.
            terms: guidance, evaluated with the network by `dgflow.diffusion.evaluation.evaluate`.
            noise: unit normals like `latents`, by step number.
            start: images to continue from, and the noise level to begin at; None for a full run. Steps are
                counted from 0 in both cases. A subclass may omit this argument; it then cannot translate
                images.

        Raises ValueError for a start outside the sampler's noise levels.
        """

    def path(self, model: ScoreModel, terms: Terms, device: torch.device, start: Start | None = None) -> Path:
        """The sampler as moves between noise levels, for selections; walking the whole path equals `sample`.

        Raises ValueError for a sampler without a path, and for a start outside its noise levels.
        """
        del model, terms, device, start
        raise ValueError(
            f"expected a sampler with steps fixed in advance, so that samples can be compared between steps, "
            f"found {type(self).__name__}: use Heun, Restart, EDMAblation, DDPM or DDIM"
        )

    @property
    def has_path(self) -> bool:
        """True for a sampler whose steps are fixed in advance."""
        return type(self).path is not SamplerSpec.path

    @property
    def moves(self) -> int:
        """The number of moves of the path, as far as known without a network."""
        return self.nfe

    @property
    def widest_range(self) -> tuple[float, float] | None:
        """The lowest and highest noise level at which a step can begin, for any network; None if that depends
        on the network.
        """
        return None

    @property
    def starts_within(self) -> bool:
        """True for a sampler that can begin within its range, from the images of a `start`."""
        return "start" in inspect.signature(self.sample).parameters

    def check_start(self, tau: float) -> None:
        """Raise ValueError for a linear-VP time at which the sampler cannot begin, as far as known without a
        network.
        """
        if not self.starts_within:
            raise ValueError(
                f"expected a sampler that can begin within its range, found {type(self).__name__}, whose "
                "sample() takes no start: use Heun, Restart, EDMAblation, DDPM, DDIM or RK45"
            )

    def nfe_from(self, tau: float, grid: Grid) -> int:
        """Approximate number of evaluations of the score network for a sample that begins at linear-VP time
        `tau`.
        """
        if (within := self.evaluations_within(0.0, tau)) is not None:
            return max(1, round(within))
        return self.nfe if grid == "whole" else max(1, round(self.nfe * tau))

    @property
    def second_order_share(self) -> float:
        """Share of the second-order slope (`Point.order`) in a step; 0 for first-order steps."""
        return 0.0

    @property
    def block(self) -> int | None:
        """Number of samples that share step sizes, a divisor of the shard size; None if each sample has its
        own.
        """
        return None

    def evaluations_within(self, low: float, high: float) -> float | None:
        """Approximate number of evaluations with `low` <= tau <= `high`; None for a sampler whose steps are
        fixed in advance and can be counted.
        """
        del low, high
        return None

    def in_smoke(self, smoke: SmokeRun, factor: int) -> Self:
        return super().in_smoke(smoke, factor).toy()

    def toy(self) -> Self:
        """The sampler in smoke runs, with few steps."""
        return self


class _Moves(SamplerSpec):
    """A sampler whose steps are fixed in advance, which walks its path."""

    def sample(
        self,
        model: ScoreModel,
        latents: Tensor,
        class_labels: Tensor | None,
        terms: Terms,
        noise: Noise,
        start: Start | None = None,
    ) -> Sample:
        from dgflow.diffusion.paths import walk

        path = self.path(model, terms, latents.device, start)
        return walk(path, latents, images=_images(start), class_labels=class_labels, noise=noise)

    @abstractmethod
    def path(
        self, model: ScoreModel, terms: Terms, device: torch.device, start: Start | None = None
    ) -> Path: ...


class _Levels(_Moves):
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
        _check_range("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
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


class Heun(_Levels):
    """EDM's second-order sampler (Karras et al. 2022, Algorithm 2); 2 * steps - 1 evaluations of the
    denoiser.

    `sigma_min` and `sigma_max` None take 0.002 and 80, narrowed to the network's range.
    """

    @model_validator(mode="after")
    def _has_levels(self) -> Self:
        low, high = EDM_RANGE
        if self.sigma_min is None:
            _check_range("sigma_min (by default)", low, "sigma_max", self.sigma_max)
        if self.sigma_max is None:
            _check_range("sigma_min", self.sigma_min, "sigma_max (by default)", high)
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


class EDMAblation(_Levels):
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


class _Ancestral(_Moves):
    """A sampler on a network's discrete schedule, or on linear VP at 1,000 steps for networks without one."""

    respacing: Respacing
    clip_denoised: bool | None = None  # None: clip images to [-1, 1] in every step, but not latents

    @property
    def nfe(self) -> int:
        counts = self.respacing.removeprefix("ddim").split(",")
        return sum(map(int, counts)) if self.respacing else 1000

    def nfe_from(self, tau: float, grid: Grid) -> int:
        # If the schedule keeps every step, there are no further steps to add below a start.
        return super().nfe_from(tau, grid if self.respacing else "tail")

    def toy(self) -> Self:
        """The sampler in smoke runs: ten steps, with the same number of sections or a fixed stride."""
        sections = self.respacing.split(",")
        sectioned = ",".join([str(max(2, 10 // len(sections)))] * len(sections))
        return self.model_copy(
            update={"respacing": "ddim10" if self.respacing.startswith("ddim") else sectioned}
        )

    def clips(self, model: ScoreModel) -> bool:
        """True if the denoised images of `model` are clipped."""
        return not model.latent if self.clip_denoised is None else self.clip_denoised


class DDPM(_Ancestral):
    """Ancestral sampling (Ho et al. 2020) on a network's discrete schedule, with the learned variance, if
    any.

    Networks without a schedule are sampled on linear VP at 1,000 steps. With `clip_denoised` None, images are
    clipped to [-1, 1] in every step, and latents are not clipped.

    `respacing`: the number of steps, "250", or the numbers of steps in equal sections, "10,20,30".
    """

    respacing: Respacing = "250"
    fixed_variance: Literal["small", "large"] = "small"  # for networks without learned variance

    def path(self, model: ScoreModel, terms: Terms, device: torch.device, start: Start | None = None) -> Path:
        from dgflow.diffusion.ancestral import DDPMPath

        predictor, schedule = model.discrete(self.respacing, start)
        return DDPMPath(predictor, schedule, terms, self.clips(model), fixed_variance=self.fixed_variance)


class DDIM(_Ancestral):
    """DDIM (Song et al. 2021) on a network's discrete schedule; `eta` 0 is deterministic, 1 as noisy as DDPM.

    `respacing` "ddim25": 25 steps.
    """

    respacing: Respacing = "ddim50"
    eta: float = Field(default=0.0, ge=0, le=1)

    def path(self, model: ScoreModel, terms: Terms, device: torch.device, start: Start | None = None) -> Path:
        from dgflow.diffusion.ancestral import DDIMPath

        predictor, schedule = model.discrete(self.respacing, start)
        return DDIMPath(predictor, schedule, terms, self.clips(model), eta=self.eta)


class RK45(SamplerSpec):
    """The probability-flow ODE in linear-VP time from `tau_max` down to `tau_min`, solved by Dormand and
    Prince's 5(4) method.

    Every sample has its own step size and does not depend on the rest of its batch. `shared_block` is a
    compatibility mode in which a block of that many samples shares one step size, as in the original code.
    The samples of a block then depend on each other. `denoise_last` ends with a denoising step, at
    `denoise_tau` (None: at `tau_min`).
    """

    tolerance: float = Field(default=1e-5, gt=0)
    tau_max: float = Field(default=1.0, gt=0, le=1)
    tau_min: float = Field(default=1e-5, gt=0, lt=1)
    denoise_last: bool = False
    denoise_tau: Annotated[float | None, Field(gt=0, le=1), LATER] = None
    shared_block: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _falls(self) -> Self:
        _check_range("tau_min", self.tau_min, "tau_max", self.tau_max)
        return self

    @property
    def nfe(self) -> int:
        return 140  # typical: the published runs took 131 (Soft Truncation) and 138 (LSGM)

    @property
    def block(self) -> int | None:
        return self.shared_block

    def evaluations_within(self, low: float, high: float) -> float:
        inside = min(high, self.tau_max) - max(low, self.tau_min)
        return self.nfe * max(0.0, inside) / (self.tau_max - self.tau_min)

    def check_start(self, tau: float) -> None:
        super().check_start(tau)
        if not self.tau_min < tau <= self.tau_max * (1 + ROUNDING):
            raise ValueError(
                f"expected a start after tau_min {self.tau_min:g} and up to tau_max {self.tau_max:g}, found "
                f"{tau:.6g}: start at another time, or set RK45's tau_min and tau_max"
            )

    def toy(self) -> Self:
        block = None if self.shared_block is None else 4  # a divisor of the shards of smoke runs
        return self.model_copy(update={"tolerance": max(0.1, self.tolerance), "shared_block": block})

    def sample(
        self,
        model: ScoreModel,
        latents: Tensor,
        class_labels: Tensor | None,
        terms: Terms,
        noise: Noise,
        start: Start | None = None,
    ) -> Sample:
        from dgflow.diffusion.rk45 import rk45
        from dgflow.diffusion.times import sigma_from_tau, tau_from_sigma

        tau_max = self.tau_max
        if start is not None:
            self.check_start(tau := tau_from_sigma(start.sigma))
            tau_max = min(tau, tau_max)
        ends = (tau_max, self.tau_min if self.denoise_tau is None else self.denoise_tau, self.tau_min)
        model.check_sigmas(tuple(map(sigma_from_tau, ends)))
        options: dict[str, Any] = {"class_labels": class_labels, "guidance": terms}
        options |= {"images": _images(start)}
        options |= {"tau_max": tau_max, "tau_min": self.tau_min, "tau_edges": model.tau_edges}
        options |= {"shared_step": self.shared_block is not None, "denoise_last": self.denoise_last}
        options |= {"denoise_tau": self.denoise_tau}
        return rk45(model.denoiser, latents, rtol=self.tolerance, atol=self.tolerance, **options)


def _images(start: Start | None) -> Tensor | None:
    return None if start is None else start.images


def _check_range(low_name: str, low: float | None, high_name: str, high: float | None) -> None:
    if low is not None and high is not None and not low < high:
        raise ValueError(f"expected {low_name} < {high_name}, found {low} and {high}")
