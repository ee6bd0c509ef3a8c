"""The log-ratio by noise level: of samples along their paths, and of diffused real images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dgflow.diffusion.acceleration import device, products
from dgflow.diffusion.batches import Batches
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm, log_ratio_at
from dgflow.diffusion.guidance import Guide
from dgflow.diffusion.guidance_specs import DiscriminatorGuidance
from dgflow.diffusion.observer import Observer
from dgflow.diffusion.score_model import ScoreModel
from dgflow.diffusion.times import per_sample
from dgflow.specs.bound import Bound
from dgflow.specs.spec import Precision
from dgflow.specs.step import Slice
from dgflow.steps.gain_choices import gain_choices
from dgflow.steps.guides import guides_of
from dgflow.steps.image_rows import image_rows
from dgflow.steps.sampling import Sampling
from dgflow.steps.systems import Networks
from dgflow.steps.training.draws import Draws

AT_ONCE = 32  # images per piece of a worker's work

Item = tuple[str | None, int]
"""A piece of the work: an arm (None for the real images), and the number of its first image."""

Values = tuple[list[list[float]], list[list[float]]]
"""Noise levels and log-ratios of some images, by image and range; NaN where there is none."""


@dataclass(frozen=True)
class Paths:
    """The arms, real images and noise levels of a `LogRatioPath`.

    Args:
        name: name of the step, for messages.
        arms: by name, the sampling step with the observing discriminator as its last guidance, and the
            indices.
        edges: of the ranges of noise levels, ascending.
    """

    name: str
    arms: Mapping[str, tuple[Sampling, range]]
    observer: DiscriminatorGuidance
    real: Slice
    edges: Sequence[float]
    seed: int
    batch_size: int

    @property
    def items(self) -> list[Item]:
        """All pieces of the work; samples that share a sampler's block are in one piece."""
        pieces: list[Item] = [(None, start) for start in range(0, self.real.rows, AT_ONCE)]
        for name, (step, indices) in self.arms.items():
            block = step.sampler.block
            first = indices.start - indices.start % (block or 1)
            pieces += [(name, start) for start in range(first, indices.stop, block or AT_ONCE)]
        return pieces

    def measurer(self, inputs: Bound) -> Callable[[Item], Values]:
        """Returns a function that computes the log-ratios of a piece and loads networks on demand."""
        return _Measurer(self, inputs).measure

    def content(self, pieces: Mapping[Item, Values]) -> dict[str, Any]:
        """Returns the content of the step's file, from the values of all pieces."""
        return {
            "sigma": list(self.edges),
            "real": self._summary(pieces, None),
            "arms": {name: self._summary(pieces, name) for name in self.arms},
        }

    def _summary(self, pieces: Mapping[Item, Values], name: str | None) -> dict[str, list[float]]:
        """Returns, by range in which an image was observed: its mean noise level (geometric), the number of
        images, and the mean and standard deviation of their log-ratios."""
        own = [pieces[item] for item in self.items if item[0] == name]
        sigmas, ratios = (np.array([row for piece in own for row in piece[part]]) for part in (0, 1))
        counts = np.isfinite(ratios).sum(axis=0)
        seen = counts > 1
        return {
            "sigma": np.exp(np.nanmean(np.log(sigmas[:, seen]), axis=0)).tolist(),
            "images": counts[seen].tolist(),
            "mean": np.nanmean(ratios[:, seen], axis=0).tolist(),
            "std": np.nanstd(ratios[:, seen], axis=0, ddof=1).tolist(),
        }


class _Arm(NamedTuple):
    """The loaded networks of an arm."""

    score: ScoreModel
    terms: list[Guide]
    observer: DiscriminatorTerm


class _Measurer:
    """`Paths` with the networks that a worker has loaded."""

    def __init__(self, paths: Paths, inputs: Bound) -> None:
        self.paths, self.inputs = paths, inputs
        self._networks: dict[Precision, Networks] = {}
        self._arms: dict[str, _Arm] = {}
        self._rows = image_rows(inputs, "real", seed=paths.seed, source=paths.real.title)

    def measure(self, item: Item) -> Values:
        name, start = item
        sigmas, log_ratios = self._diffused(start) if name is None else self._followed(name, start)
        if (sigmas.isfinite() & ~log_ratios.isfinite()).any():
            where = "the real images" if name is None else f"arm {name!r}"
            raise FloatingPointError(
                f"expected finite log-ratios, found NaN or infinity in {where} of {self.paths.name}; the "
                "discriminator gives them, or the score network: look at their training curves, take an "
                "earlier epoch or a smaller guidance weight"
            )
        return sigmas.tolist(), log_ratios.tolist()

    def _of(self, precision: Precision) -> Networks:
        if precision not in self._networks:
            self._networks[precision] = Networks(self.inputs, device(), precision)
        return self._networks[precision]

    def _arm(self, name: str) -> _Arm:
        if name not in self._arms:
            (step, _), path = self.paths.arms[name], f"arms.{name}"
            networks, guides = self._of(step.precision), guides_of(f"{path}.guidance", step.guidance)
            *terms, last = networks.terms(guides, gain_choices(guides, self.inputs))
            assert isinstance(last, DiscriminatorTerm)
            score = networks.score(f"{path}.score", step.score, step.guidance)
            self._arms[name] = _Arm(score, terms, last)
        return self._arms[name]

    def _diffused(self, start: int) -> tuple[Tensor, Tensor]:
        """Returns the log-ratios of real images at the middle of every range."""
        paths, real = self.paths, self.paths.real
        (step, _), *_ = paths.arms.values()
        networks = self._of(step.precision)
        (term,) = networks.terms({"discriminator": paths.observer}, {})
        assert isinstance(term, DiscriminatorTerm)
        middles = [math.sqrt(low * high) for low, high in pairwise(paths.edges)]
        levels = torch.tensor(middles, dtype=torch.float64, device=networks.device)
        numbers = torch.arange(start, min(start + AT_ONCE, real.rows))
        items = (numbers[:, None] * len(levels) + torch.arange(len(levels))).flatten()
        sigma = levels.repeat(len(numbers))

        def batch(first: int, last: int) -> Tensor:
            part = slice(first, last)
            images, labels = self._rows(items[part] // len(levels))
            images = images.double()
            x = images + per_sample(sigma[part], images) * Draws.path(paths.seed).normals(items[part], images)
            seen = labels if paths.observer.guides[0].step.classes else None
            return log_ratio_at(term.discriminator, x, sigma[part], seen, time=term.time)

        with products(step.precision):
            parts = Batches(paths.batch_size, of=paths.name).map(batch, 0, len(items))
        return sigma.view(len(numbers), -1), torch.cat(parts).double().view(len(numbers), -1)

    def _followed(self, name: str, start: int) -> tuple[Tensor, Tensor]:
        """Returns the log-ratios of an arm's samples, each at its point nearest to the middle of every range.
        A sampler's block is drawn in full, as for the stored samples, and samples outside the piece are
        dropped."""
        (step, indices), arm = self.paths.arms[name], self._arm(name)
        block = step.sampler.block
        end = indices.stop if block is None else (step.length or start + block)
        stop = min(start + (block or AT_ONCE), end)
        own = Bound({field: self.inputs.items[f"arms.{name}.{field}"] for field in step.reads})
        draws, place = step.draws(own, start, stop), device()

        def batch(first: int, last: int) -> tuple[Tensor, Tensor]:
            draw = draws(torch.arange(first, last, device=place))
            observer = Observer(arm.observer.discriminator, arm.observer.time)
            begin = {} if draw.start is None else {"start": draw.start}
            terms = [*arm.terms, observer]
            step.sampler.sample(arm.score, draw.latents, draw.asked, terms, draw.noise, **begin)
            return observer.at(self.paths.edges)

        batches = Batches(block or self.paths.batch_size, of=self.paths.name, fixed=block is not None)
        with products(step.precision):
            parts = batches.map(batch, start, stop)
        wanted = slice(max(0, indices.start - start), indices.stop - start)
        sigmas, log_ratios = (torch.cat(each)[wanted] for each in zip(*parts, strict=True))
        return sigmas, log_ratios
