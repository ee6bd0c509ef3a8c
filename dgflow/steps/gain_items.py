"""Gain of a discriminator on held-out real images, item by item; an item is an image at a noise level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dgflow.diffusion.acceleration import autocast
from dgflow.diffusion.batches import Batches
from dgflow.diffusion.discriminator_guidance import LogRatio
from dgflow.diffusion.gain import Moments, Noisy, level_edges, measured, moments
from dgflow.diffusion.gain_curve import MeasuredGain
from dgflow.diffusion.times import TimeMap, log_uniform_sigma
from dgflow.steps.frozen_score import FrozenScore
from dgflow.steps.training.draws import Draws

Rows = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A function of ascending image numbers: images float32 [b, C, H, W] and labels int64 [b], on the device."""


@dataclass
class GainItems:
    """The items of Gain, with the score network's denoised images.

    Item k is image k // levels at a noise level drawn from range k % levels of log sigma. Noise and level are
    a function of (seed, k): the same in every epoch, after a restart, and for any number of workers. A
    process evaluates the score network once for each of its items, caches the results in host memory, and
    releases the network when all items are measured.

    Args:
        rows: the held-out images.
        images: the number of images that are measured.
        sigma_range: noise levels to measure; narrowed to those that the score network was trained for.
        batch_size: items per evaluation.
        keeps: cache the score network's results, for items that are measured again.
    """

    rows: Rows
    images: int
    score: FrozenScore
    seed: int
    levels: int
    sigma_range: tuple[float, float]
    time_map: TimeMap
    batch_size: int
    keeps: bool = True
    _known: dict[bytes, Noisy] = field(default_factory=dict)

    @property
    def items(self) -> int:
        return self.images * self.levels

    @cached_property
    def edges(self) -> list[float]:
        """The edges of the ranges of noise levels, ascending."""
        low, high = self.score.trained_range(*self.sigma_range, use="to measure Gain at")
        return level_edges(self.levels, low, high)

    def measure(self, discriminator: LogRatio, items: Tensor) -> dict[str, Tensor]:
        """Returns the moments of items (int64 [b], ascending), float64 [b] each; see
        `Measurement.measure`."""
        noisy = self._noisy(items)

        def log_ratio(y: Tensor, time_B: Tensor, labels: Tensor | None) -> Tensor:
            with autocast(self.score.device, self.score.precision):
                return discriminator(y, time_B, labels).float()

        def batch(first: int, last: int) -> Moments:
            return moments(log_ratio, noisy.part(first, last).to(self.score.device), time=self.time_map)

        parts = self._batches.map(batch, 0, len(items))
        return {name: torch.cat([getattr(part, name) for part in parts]) for name in Moments._fields}

    def gain(self, values: dict[str, Tensor]) -> MeasuredGain:
        """Returns Gain from the moments of all items."""
        pairs = (values[name].view(self.images, self.levels) for name in Moments._fields)
        return measured(Moments(*pairs), self.edges)

    def summarise(self, values: dict[str, Tensor]) -> dict[str, Any]:
        """Returns the metrics of an epoch; see `Measurement.summarise`. The score network is not needed
        afterwards."""
        self.score.release()
        return self.gain(values).metrics()

    @cached_property
    def _batches(self) -> Batches:
        return Batches(self.batch_size, of=self.score.name)

    def _noisy(self, items: Tensor) -> Noisy:
        """Returns the score network's results for a batch of items, in host memory."""
        key = items.numpy().tobytes()
        if (known := self._known.get(key)) is not None:
            return known
        images, labels = self.rows(items // self.levels)

        def batch(first: int, last: int) -> Noisy:
            chosen = slice(first, last)
            return self._denoised(items[chosen], images[chosen], labels[chosen]).to("cpu")

        noisy = Noisy.joined(self._batches.map(batch, 0, len(items)))
        if self.keeps:
            self._known[key] = noisy
        return noisy

    def _denoised(self, items: Tensor, images: Tensor, labels: Tensor) -> Noisy:
        draws = Draws.gain(self.seed)
        quantile_B = (items % self.levels + draws.uniform(items)) / self.levels
        sigma_B = log_uniform_sigma(quantile_B, self.edges[0], self.edges[-1]).to(self.score.device)
        normals = draws.normals(items, images)
        return self.score.denoised(images, labels, self.score.rounded(sigma_B), normals)
