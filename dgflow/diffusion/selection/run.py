"""The input and output of a selection: `Run`, a loaded system to draw samples from, and `Selected`, the
samples.
"""

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
    """The draws from which samples are made.

    Args:
        latents: unit normals [B, C, H, W].
        labels: class labels of the samples, int64 [B]; -1 without a class.
        asked: class labels for the networks; None for no classes.
        noise: unit normals by step number.
        start: images from which the sampler continues, if any.
    """

    latents: Tensor
    labels: Tensor
    asked: Tensor | None
    noise: Noise
    start: Start | None = None


class Selected(NamedTuple):
    """The selected samples.

    Args:
        x: [B, ...] float64, not clipped.
        labels: int64 [B], as in `Draw`.
        log_ratio: log-ratio of the selection's discriminator at the sample, float64 [B].
        score_evaluations: evaluations of the score network for everything drawn for the sample, int64 [B], on
            the host.
        guide_evaluations: evaluations of each entry of guidance, likewise, int64 [B, entries].
        discriminator_evaluations: forward evaluations of the selection's discriminator, int64 [B].
        utilisation: share of the rows needed by samples among the rows evaluated by networks, counting every
            batch as full.
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
        draw: sample indices, int64 [B] -> their draws, as without a selection.
        sample: the whole sampler, with guidance.
        path: the sampler as moves between noise levels; None for a sampler without a path.
        log_ratio: log-ratio of the selection's discriminator.
        entries: number of entries of guidance.
        seed: seed of the samples.
        sides: (channels, height, width) of a sample.
        batch_size: rows per batch.
        device: device of the networks.
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
