"""Losses of discriminators and of a score network by noise level, from images at every level, and their
integrals over log sigma."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgflow.diffusion.acceleration import autocast, device
from dgflow.diffusion.batches import Batches
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm, log_ratio_at
from dgflow.diffusion.guidance_specs import DiscriminatorGuidance
from dgflow.diffusion.losses import DiscriminatorLoss, discriminator_loss
from dgflow.diffusion.score_model import ScoreModel
from dgflow.diffusion.times import log_uniform_sigma, per_sample
from dgflow.specs.bound import Bound
from dgflow.specs.spec import ActivationPrecision
from dgflow.specs.step import Slice, Weights
from dgflow.steps.arm_values import standard_error
from dgflow.steps.image_rows import image_rows
from dgflow.steps.systems import Networks
from dgflow.steps.training.draws import Draws

SCORE = "score"
"""Key of the score network's values in an item's result; a discriminator's key is `guide_key(name)`."""
KINDS: tuple[DiscriminatorLoss, ...] = ("bce", "lsif")
IMAGES_AT_ONCE = 32  # per piece of a worker's work

Item = tuple[str, int]
"""A piece of the work: "real" or "fake", and the number of its first image."""

Values = dict[str, list[float]]


def guide_key(name: str) -> str:
    return f"guide {name}"


@dataclass(frozen=True)
class LevelLosses:
    """The images, networks and noise levels of a `LossesByLevel`.

    Args:
        name: name of the step, for messages.
        terms: guidance by each of the discriminators, by its name.
        images: "real" and "fake".
        span: lowest and highest noise level, divided into `levels` equal ranges of log sigma.
    """

    name: str
    score: Weights
    terms: Mapping[str, DiscriminatorGuidance]
    images: Mapping[str, Slice]
    span: tuple[float, float]
    levels: int
    seed: int
    precision: ActivationPrecision
    batch_size: int

    @property
    def items(self) -> list[Item]:
        """All pieces of the work."""
        return [
            (kind, start)
            for kind, part in self.images.items()
            for start in range(0, part.rows, IMAGES_AT_ONCE)
        ]

    def measurer(self, inputs: Bound) -> Callable[[Item], Values]:
        """Loads the networks. The returned function measures the images of a piece, each at every level:
        logits of each discriminator and, for real images, the score network's errors, all as images x levels,
        flattened."""
        networks = Networks(inputs, device(), "float32")
        paths = {f"discriminators.{name}": term for name, term in self.terms.items()}
        terms: list[Any] = networks.terms(paths, {})
        measurer = _Measurer(
            self,
            networks.score("score", self.score),
            dict(zip(self.terms, terms, strict=True)),
            {
                kind: image_rows(inputs, kind, seed=self.seed, source=part.title)
                for kind, part in self.images.items()
            },
            networks.device,
            Batches(self.batch_size, of=self.name),
        )
        return measurer.measure

    def content(self, pieces: Mapping[Item, Values]) -> dict[str, Any]:
        """Returns the content of the step's file, from the values of all pieces."""
        low, high = self.span
        real, fake = (self._joined(pieces, kind) for kind in ("real", "fake"))
        return {
            "sigma": [low * (high / low) ** (number / self.levels) for number in range(self.levels + 1)],
            "images": {kind: part.rows for kind, part in self.images.items()},
            "score_matching": _integrated([real[SCORE]]) | {"real": _by_level(real[SCORE])},
            "discriminators": {
                name: {kind: _of_logits(real[guide_key(name)], fake[guide_key(name)], kind) for kind in KINDS}
                for name in self.terms
            },
        }

    def _joined(self, pieces: Mapping[Item, Values], kind: str) -> dict[str, np.ndarray]:
        """Returns the values of all images of a kind, [images, levels], by name."""
        own = [pieces[item] for item in self.items if item[0] == kind]
        return {
            name: np.reshape([value for piece in own for value in piece[name]], (-1, self.levels))
            for name in own[0]
        }


@dataclass(frozen=True)
class _Measurer:
    """Measures the losses, with the networks on a device."""

    losses: LevelLosses
    model: ScoreModel
    terms: Mapping[str, DiscriminatorTerm]
    rows: Mapping[str, Callable[[Tensor], tuple[Tensor, Tensor]]]
    device: torch.device
    batches: Batches

    def measure(self, item: Item) -> Values:
        kind, start = item
        levels = self.losses.levels
        numbers = torch.arange(start, min(start + IMAGES_AT_ONCE, self.losses.images[kind].rows))
        items = (numbers[:, None] * levels + torch.arange(levels)).flatten()
        images, labels = self.rows[kind](items // levels)

        def batch(first: int, last: int) -> dict[str, Tensor]:
            part = slice(first, last)
            return self._values(kind, items[part], images[part], labels[part])

        parts = self.batches.map(batch, 0, len(items))
        return {name: torch.cat([part[name] for part in parts]).tolist() for name in parts[0]}

    @torch.no_grad()
    def _values(self, kind: str, items: Tensor, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        losses, draws = self.losses, Draws.losses(self.losses.seed)
        index = 2 * items + (kind == "fake")
        quantile = (items % losses.levels + draws.uniform(index)) / losses.levels
        sigma = log_uniform_sigma(quantile, *losses.span).to(self.device)
        if self.model.round_sigma is not None:
            sigma = self.model.round_sigma(sigma)
        images = images.double()
        x = images + per_sample(sigma, images) * draws.normals(index, images)
        found: dict[str, Tensor] = {}
        with autocast(self.device, losses.precision):
            if kind == "real":
                error = (self.model.denoiser(x, sigma, labels).double() - images) / per_sample(sigma, images)
                found[SCORE] = error.square().flatten(1).mean(1)
            for name, term in self.terms.items():
                seen = labels if losses.terms[name].guides[0].step.classes else None
                found[guide_key(name)] = log_ratio_at(term.discriminator, x, sigma, seen, time=term.time)
        return {name: value.double().cpu() for name, value in found.items()}


def _of_logits(real_NL: np.ndarray, fake_NL: np.ndarray, kind: DiscriminatorLoss) -> dict[str, Any]:
    """Returns a loss of a discriminator's logits on real and on fake images, and the mean of the two."""
    real, fake = (
        discriminator_loss(torch.from_numpy(logits), torch.tensor(is_real), kind).numpy()
        for logits, is_real in ((real_NL, True), (fake_NL, False))
    )
    return _integrated([0.5 * real, 0.5 * fake]) | {"real": _by_level(real), "fake": _by_level(fake)}


def _by_level(losses_NL: np.ndarray) -> dict[str, list[float]]:
    """Returns mean and standard error over the images, by level."""
    return {"mean": losses_NL.mean(axis=0).tolist(), "error": standard_error(losses_NL).tolist()}


def _integrated(parts: Sequence[np.ndarray]) -> dict[str, list[float]]:
    """Integrates a loss that is the sum of the means of independent parts [images, levels]. Returns its
    values by level, and the share of its integral over log sigma below each level's upper end, with standard
    errors.

    The error of a share, a ratio of two means, is linearised: it is that of the mean of (below - share *
    whole) / |whole|.
    """
    loss = np.sum([part.mean(axis=0) for part in parts], axis=0)
    share = loss.cumsum() / loss.sum()
    influence = [
        (part.cumsum(axis=1) - share * part.sum(axis=1, keepdims=True)) / loss.sum() for part in parts
    ]
    variance = np.sum([part.var(axis=0, ddof=1) / len(part) for part in influence], axis=0)
    return {"loss": loss.tolist(), "share": share.tolist(), "share_error": np.sqrt(variance).tolist()}
