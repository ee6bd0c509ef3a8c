"""Run and Selected: the loaded system that a selection draws samples from, and the samples that it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.noise import Step
from dgflow.diffusion.paths import Path
from dgflow.diffusion.samplers import Noise, Sample, Start

LogRatioAt = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x [B, ...] in EDM's scaling, sigma [B] float64, class labels) -> log-ratio [B] float64."""


class Draw(NamedTuple):
    """What some samples are made from.

    Args:
        latents: unit normals [B, C, H, W].
        labels: of the samples, int64 [B]; -1 without a class.
        asked: the classes that the networks are asked about, None for none.
        noise: unit normals by the number of the step.
        start: the images from which the sampler goes on, if any.
    """

    latents: Tensor
    labels: Tensor
    asked: Tensor | None
    noise: Noise
    start: Start | None = None


class Selected(NamedTuple):
    """Samples that were selected.

    Args:
        x: [B, ...] float64, not clipped.
        labels: int64 [B], as in `Draw`.
        log_ratio: of the selection's discriminator, float64 [B], at the sample.
        score_evaluations: int64 [B], on the host: the score network's, of all that was drawn for the sample.
        guide_evaluations: int64 [B, entries of guidance]: of each entry, likewise.
        discriminator_evaluations: int64 [B]: of the selection's discriminator, forward.
        utilisation: the share of the rows that networks were asked about, were each batch full, that samples
            needed.
    """

    x: Tensor
    labels: Tensor
    log_ratio: Tensor
    score_evaluations: np.ndarray
    guide_evaluations: np.ndarray
    discriminator_evaluations: np.ndarray
    utilisation: float


@dataclass(frozen=True)
class Run:
    """A loaded system.

    Args:
        draw: the draws of samples int64 [B], as they are made without a selection.
        sample: the whole sampler, guided.
        path: the sampler as moves between noise levels; None for one that has none.
        log_ratio: of the selection's discriminator.
        entries: of guidance.
        seed: of the samples.
        sides: (channels, height, width) of a sample.
        batch_size: rows at a time.
        device: of the networks.
    """

    draw: Callable[[Tensor], Draw]
    sample: Callable[[Draw], Sample]
    path: Path | None
    log_ratio: LogRatioAt
    entries: int
    seed: int
    sides: tuple[int, ...]
    batch_size: int
    device: torch.device

    def normals(self, index_B: Tensor, *, step: Step, draw: int) -> Tensor:
        """Unit normals [B, C, H, W] float64, see `noise.standard_normal`."""
        return noise.standard_normal(self.seed, index_B, self.sides, step=step, draw=draw)

    def uniforms(self, index_B: Tensor, *, step: Step, draw: int, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform numbers [B, *shape] float64 in (0, 1)."""
        return noise.uniform(self.seed, index_B, shape, step=step, draw=draw)
