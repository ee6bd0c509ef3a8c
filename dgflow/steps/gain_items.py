"""Gain of a discriminator on held-out real images, item by item: an image at a noise level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from dgflow.diffusion.acceleration import autocast, prepared
from dgflow.diffusion.batches import Batches
from dgflow.diffusion.discriminator_guidance import LogRatio
from dgflow.diffusion.gain import Moments, Noisy, denoised, level_edges, measured, moments
from dgflow.diffusion.gain_curve import MeasuredGain
from dgflow.diffusion.score_model import ScoreModel
from dgflow.diffusion.times import TimeMap, log_uniform_sigma
from dgflow.networks.families import score_network
from dgflow.specs.spec import ActivationPrecision
from dgflow.specs.step import Weights
from dgflow.steps.guides import without_network
from dgflow.steps.training.draws import Draws

Rows = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Numbers of images, rising -> images float32 [b, C, H, W] and labels int64 [b], on the device."""


@dataclass
class GainItems:
    """The items of Gain, and what a score network leaves of them.

    Item k is image k // levels at a noise level drawn from range k % levels of log sigma. Noise and level are
    a function of (seed, k): the same in every epoch, in a training that goes on after a kill, and for any
    number of workers. A process asks the score network once about each of its items, keeps the answers in
    host memory, and lets the network go when `release` is called.

    Args:
        rows: the held-out images.
        images: how many of them are measured.
        score: the weights of the score network, and `load` the network itself.
        sigma_range: noise levels to measure; narrowed to those that the score network was made for.
        conditional: the discriminator is told the labels.
        batch_size: items at a time.
        name: of the step, for messages.
        keeps: keep the score network's answers, for items that are measured again.
    """

    rows: Rows
    images: int
    score: Weights
    load: Callable[[], nn.Module]
    seed: int
    levels: int
    sigma_range: tuple[float, float]
    time_map: TimeMap
    conditional: bool
    precision: ActivationPrecision
    device: torch.device
    batch_size: int
    name: str
    keeps: bool = True
    _known: dict[bytes, Noisy] = field(default_factory=dict)
    _model: ScoreModel | None = None

    @property
    def items(self) -> int:
        return self.images * self.levels

    @cached_property
    def edges(self) -> list[float]:
        """Ends of the ranges of noise levels."""
        low, high = without_network(self.score).narrowed(*self.sigma_range)
        if not 0 < low < high:
            raise ValueError(
                f"{self.name}: expected noise levels between sigma_min {self.sigma_range[0]:g} and sigma_max "
                f"{self.sigma_range[1]:g} that the score network knows, to measure Gain at, found none: it "
                f"begins at {low:g} and ends at {high:g}"
            )
        return level_edges(self.levels, low, high)

    def measure(self, discriminator: LogRatio, items: Tensor) -> dict[str, Tensor]:
        """The moments of items (int64 [b], rising), float64 [b] each; see `Measurement.measure`."""
        noisy = self._noisy(items)

        def log_ratio(y: Tensor, time_B: Tensor, labels: Tensor | None) -> Tensor:
            with autocast(self.device, self.precision):
                return discriminator(y, time_B, labels).float()

        def batch(first: int, last: int) -> Moments:
            return moments(log_ratio, noisy.part(first, last).to(self.device), time=self.time_map)

        parts = self._batches.map(batch, 0, len(items))
        return {name: torch.cat([getattr(part, name) for part in parts]) for name in Moments._fields}

    def gain(self, values: dict[str, Tensor]) -> MeasuredGain:
        """Gain, from the moments of all items."""
        pairs = (values[name].view(self.images, self.levels) for name in Moments._fields)
        return measured(Moments(*pairs), self.edges)

    def summarise(self, values: dict[str, Tensor]) -> dict[str, Any]:
        """The metrics of an epoch; see `Measurement.summarise`. The score network is done with."""
        self.release()
        return self.gain(values).metrics()

    def release(self) -> None:
        """Let the score network go."""
        self._model = None

    @cached_property
    def _batches(self) -> Batches:
        return Batches(self.batch_size, of=self.name)

    def _noisy(self, items: Tensor) -> Noisy:
        """On the host."""
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
        sigma_B = log_uniform_sigma(quantile_B, self.edges[0], self.edges[-1]).to(self.device)
        model, classes = self._score_model(), self.score.step.classes
        if model.round_sigma is not None:
            sigma_B = model.round_sigma(sigma_B)
        if classes and not ((labels >= 0) & (labels < classes)).all():
            raise ValueError(
                f"{self.name}: expected labels 0 to {classes - 1}, which the score network is asked about, "
                f"found {int(labels.min())} to {int(labels.max())}"
            )
        with autocast(self.device, self.precision):
            return denoised(
                model.denoiser,
                images,
                sigma_B,
                draws.normals(items, images),
                labels if classes else None,
                labels if self.conditional else None,
            )

    def _score_model(self) -> ScoreModel:
        if self._model is None:
            network = prepared(self.load(), device=self.device)
            model = score_network(self.score).score_model(network)
            self._model = model if self.score.step.classes else model.without_labels()
        return self._model
