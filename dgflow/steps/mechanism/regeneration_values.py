"""The numbers of `Regeneration`: distances of images by arm and noise level, and their summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dgflow.diffusion import noise
from dgflow.diffusion.acceleration import device, products
from dgflow.diffusion.batches import Batches
from dgflow.diffusion.gain_curve import GainChoice
from dgflow.diffusion.guidance_specs import Guidance
from dgflow.diffusion.sampler_specs import SamplerSpec
from dgflow.diffusion.samplers import Start
from dgflow.images.thumbnails import LARGEST, thumbnail
from dgflow.specs.bound import Bound
from dgflow.specs.spec import Grid, Precision
from dgflow.specs.step import Slice, Weights
from dgflow.steps.arm_values import standard_error
from dgflow.steps.judging.features import Features
from dgflow.steps.pixels import clean_column, clean_images, pixels
from dgflow.steps.systems import Networks, System

IMAGES_AT_ONCE = 8  # per piece of a worker's work, each with all its draws
INDICES_PER_IMAGE = 2**20
"""Draw k of image i has index i 2^20 + k among the random numbers."""


Judge = Callable[[np.ndarray], np.ndarray]
"""Images uint8 [n, H, W, C] -> features float64 [n, d]."""


class Item(NamedTuple):
    """A piece of the work: images from `start` on, of one arm at one level."""

    arm: str
    level: int
    start: int


class Piece(NamedTuple):
    """The distances of a piece's images, and the pictures of those that are shown."""

    average: list[float]
    single: list[float]
    features: list[float]  # empty without a judge
    pictures: list[str]
    originals: list[str]


class Part(NamedTuple):
    """The clean images [n, C, H, W] and labels of an item, the number of the first, and the noise level."""

    images: Tensor
    labels: Tensor
    start: int
    sigma: float


@dataclass(frozen=True)
class Regenerations:
    """The computation of a `Regeneration`, whose fields it has. `judge` computes the features, if any."""

    name: str
    score: Weights
    arms: Mapping[str, Sequence[Guidance]]
    real: Slice
    sigmas: Sequence[float]
    draws: int
    sampler: SamplerSpec
    grid: Grid
    judge: Features | None
    shown: int
    seed: int
    precision: Precision
    batch_size: int

    @property
    def items(self) -> list[Item]:
        levels, starts = range(len(self.sigmas)), range(0, self.real.rows, IMAGES_AT_ONCE)
        return [Item(name, level, start) for name in self.arms for level in levels for start in starts]

    def measurer(self, choices: Mapping[str, GainChoice], inputs: Bound) -> Callable[[Item], Piece]:
        """Loads the networks of all arms; the returned function measures an item."""
        networks = Networks(inputs, device(), self.precision)
        systems = {
            name: networks.system(self.score, terms, f"arms.{name}", choices)
            for name, terms in self.arms.items()
        }
        judge = None if self.judge is None else _judge(self.judge, inputs.network("features"))
        batches = Batches(self.batch_size, of=self.name)
        column = clean_column(self.real.step)

        def measure(item: Item) -> Piece:
            stop = min(item.start + IMAGES_AT_ONCE, self.real.rows)
            rows = inputs.rows("real", ["label", column], item.start, stop)
            labels = torch.from_numpy(rows.pop("label")).long()
            images = clean_images(rows)
            part = Part(images, labels, item.start, self.sigmas[item.level])
            pairs = partial(self._regenerated, systems[item.arm], part)
            with products(self.precision):
                made = torch.cat(batches.map(pairs, 0, len(images) * self.draws))
            return self._piece(made.view(len(images), self.draws, *images.shape[1:]), part, judge)

        return measure

    def _piece(self, made: Tensor, part: Part, judge: Judge | None) -> Piece:
        """Returns the distances of regenerated images [images, draws, C, H, W] to the images."""
        off = (made - part.images[:, None]).flatten(2)
        # mean of the draws|^2 is overestimated by the variance of that mean.
        average = off.mean(1).square().mean(1) - off.var(dim=1).mean(1) / self.draws
        features, pictures, originals = list[float](), list[str](), list[str]()
        if not self.real.step.gives_latents:
            found, clean = pixels(made.mean(1)), pixels(part.images)
            if judge is not None:
                features = np.linalg.norm(judge(found) - judge(clean), axis=1).tolist()
            shown = max(0, self.shown - part.start)
            pictures, originals = ([thumbnail(each) for each in kind[:shown]] for kind in (found, clean))
        return Piece(average.tolist(), off.square().mean((1, 2)).tolist(), features, pictures, originals)

    def _regenerated(self, system: System, part: Part, first: int, last: int) -> Tensor:
        """Returns the regenerated images [pairs, C, H, W] of pairs [first, last), draw by draw for each
        image."""
        pair = torch.arange(first, last)
        image, own_device = pair // self.draws, device()
        index = ((part.start + image) * INDICES_PER_IMAGE + pair % self.draws).to(own_device)
        shape = tuple(part.images.shape[1:])

        def normals(number: int) -> Tensor:
            return noise.standard_normal(self.seed, index, shape, step=number, draw=noise.REGENERATION)

        asked = None
        if system.classes:
            asked = part.labels[image].to(own_device)
            if not ((part.labels >= 0) & (part.labels < system.classes)).all():
                raise ValueError(
                    f"{self.name}: expected labels 0 to {system.classes - 1} of the real images, the "
                    f"classes of the networks, found {int(part.labels.min())} to {int(part.labels.max())}"
                )
        start = Start(part.images[image].to(own_device), part.sigma, self.grid)
        sample = self.sampler.sample(
            system.score, normals(0), asked, system.terms, lambda step: normals(1 + step), start
        )
        system.check(self.name)
        if not sample.x.isfinite().all():
            raise FloatingPointError(
                f"expected finite values, found NaN or infinity in regenerated images of {self.name}: take "
                "other epochs or a smaller guidance weight"
            )
        return sample.x.double().cpu()

    def content(self, pieces: Mapping[Item, Piece]) -> dict[str, Any]:
        """Returns the content of the file, from the pieces of all items."""
        first, *_ = self.arms
        kinds = ("average", "single") if self.judge is None else ("average", "single", "features")
        values = {name: {kind: self._values(pieces, name, kind) for kind in kinds} for name in self.arms}
        arms: dict[str, Any] = {}
        for name, own in values.items():
            arms[name] = {kind: list(map(_mean, own[kind])) for kind in kinds}
            if name != first:
                gaps = {kind: zip(own[kind], values[first][kind], strict=True) for kind in kinds}
                arms[name]["difference"] = {
                    kind: [_mean(ours - theirs) for ours, theirs in gaps[kind]] for kind in kinds
                }
        averages = {name: self._by_level(pieces, name, "pictures") for name in self.arms}
        pictures = {
            "side": min(self.real.step.shape.image_size, LARGEST),
            "images": self._by_level(pieces, first, "originals")[0],
            "averages": averages,
        }
        counts = {"sigmas": list(self.sigmas), "images": self.real.rows, "draws": self.draws}
        return counts | {"arms": arms, "pictures": pictures}

    def _by_level(self, pieces: Mapping[Item, Piece], arm: str, kind: str) -> list[list[Any]]:
        """Returns a part of the pieces of an arm, joined for each level."""
        return [
            [
                value
                for item in self.items
                if item[:2] == (arm, level)
                for value in getattr(pieces[item], kind)
            ]
            for level in range(len(self.sigmas))
        ]

    def _values(self, pieces: Mapping[Item, Piece], arm: str, kind: str) -> list[np.ndarray]:
        """Returns one value per image for every level."""
        return [np.array(values) for values in self._by_level(pieces, arm, kind)]


def _judge(features: Features, network: nn.Module) -> Judge:
    judge = features.judge(network, device())
    return lambda images: judge(list(images))["features"].double().cpu().numpy()


def _mean(values: np.ndarray) -> dict[str, float]:
    return {"mean": float(values.mean()), "error": float(standard_error(values))}
