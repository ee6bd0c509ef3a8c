"""Bases of the specs of samplers, for recipes: frozen values whose `sample` runs with torch.

Every sampler supports every guidance term, and every score network that covers its noise levels. The specs
are in `edm_sampler_specs`, `restart_specs`, `ancestral_specs` and `rk45_specs`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from dgflow.specs.spec import Grid, SmokeRun, Spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from dgflow.diffusion.guidance import Guide
    from dgflow.diffusion.paths import Path
    from dgflow.diffusion.samplers import Noise, Sample, Start
    from dgflow.diffusion.score_model import ScoreModel

    Terms = Sequence[Guide]


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


class PathSampler(SamplerSpec):
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
        images = None if start is None else start.images
        return walk(path, latents, images=images, class_labels=class_labels, noise=noise)

    @abstractmethod
    def path(
        self, model: ScoreModel, terms: Terms, device: torch.device, start: Start | None = None
    ) -> Path: ...
