"""RejectionThresholds: the constants of rejection, measured on a sampler's own paths."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from dgflow.specs.spec import BatchSize, SmokeRun
from dgflow.specs.step import Reference, ResultStep, Slice, Spread, Weights, Work
from dgflow.steps.gain_choices import by_gain, gain_choices
from dgflow.steps.generate import Generate
from dgflow.steps.guides import check_guide, guides_of
from dgflow.steps.judging.shared_samples import fakes_seen
from dgflow.store.identity import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from dgflow.diffusion.gain_curve import GainChoice
    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore

AT_ONCE = 32  # samples per piece of a worker's work
TOY_SAMPLES = 12  # in smoke runs

Piece = tuple[list[float], list[list[float]]]
"""Noise levels of the path, and log-ratios by sample and position."""


class RejectionThresholds(ResultStep):
    """The thresholds that `Rejection` compares log-ratios with: quantiles of `discriminator`'s log-ratios
    over `samples`, by position of their path (Na et al. 2024, DiffRS; 0.75 of 1,000 samples on CIFAR-10).

    `samples` are of a `Generate` without selection, whose paths are computed again, equal up to rounding; the
    stored samples are not read. `Rejection` takes the same score network, sampler and guidance. The
    discriminator should not have been trained on the samples, because its log-ratios of those are too low; a
    warning reports them.

    A larger `quantile` rejects more. 1.0 is the largest observed log-ratio; with a smaller quantile, samples
    above it are accepted as if they had its value. With `floor` no threshold is below 0, as published.

    The file holds, by position: `levels`, noise levels; `again`, quantiles of the log-ratio; `first`, those
    of its change from the previous position. A discriminator of clean images is evaluated only at the last
    position, and the log-ratio counts as 0 before.
    """

    samples: Slice
    discriminator: Weights
    quantile: float = Field(default=0.75, gt=0, le=1)
    floor: bool = True
    batch_size: BatchSize = 256

    @model_validator(mode="after")
    def _fits(self) -> RejectionThresholds:
        step, shape = self.system, self.system.score.step.shape
        if step.selection is not None:
            raise ValueError(
                f"samples: expected samples of a Generate without selection, found {step.title}: leave the "
                "selection out"
            )
        if not step.sampler.has_path:
            raise ValueError(
                "samples: expected a sampler with steps fixed in advance, so that log-ratios can be "
                f"compared between steps, found {type(step.sampler).__name__}: use Heun"
            )
        name, classes = "discriminator", step.score.step.classes
        check_guide(name, name, self.discriminator, name, shape, classes)
        if (known := self.discriminator.step.classes) and not step.classes:
            raise ValueError(
                f"{name}: expected one without classes, as {step.title} has none, found one of {known}: "
                "train it with conditional=False"
            )
        if self.samples.rows < 2:
            raise ValueError(
                "samples: expected two or more, for quantiles of their log-ratios, found "
                f"{self.samples.rows}; take a larger slice"
            )
        return self

    @property
    def system(self) -> Generate:
        """The sampling step. Raises ValueError for samples that are not drawn."""
        step = self.samples.origin.step
        if not isinstance(step, Generate):
            raise ValueError(
                "samples: expected samples of Generate, or images decoded from them, found "
                f"{self.samples.title}, which have no path from noise"
            )
        return step

    @property
    def knows_noise(self) -> bool:
        """False for a discriminator of clean images, which is evaluated only at the end of a path."""
        return self.discriminator.step.knows_noise

    def inputs(self) -> dict[str, Reference]:
        """The networks that sample, without the samples."""
        system = {f"samples.{path}": reference for path, reference in self.system.reads.items()}
        return {**system, "discriminator": self.discriminator}

    def choices(self, inputs: Bound) -> dict[str, GainChoice]:
        return by_gain(guides_of("samples.guidance", self.system.guidance), inputs)

    def toy(self, smoke: SmokeRun) -> RejectionThresholds:
        # The slice is not read, so a smoke run does not scale it.
        step = smoke.value(self.samples.origin.step, 1)
        discriminator = smoke.value(self.discriminator, 1)
        return self.model_copy(update={"samples": step[:TOY_SAMPLES], "discriminator": discriminator})

    def cautions(self) -> list[str]:
        if not (known := fakes_seen(self.discriminator, self.samples)):
            return []
        return [
            f"samples: {self.discriminator.step.title} was trained on {known:,} of these "
            f"{self.samples.rows:,} samples, as fakes, so that their log-ratios, and the thresholds, are "
            "too low; take others, such as those of another seed, which need not exist"
        ]

    @property
    def title(self) -> str:
        return f"rejection thresholds of {self.system.title} by {self.discriminator.step.title}"

    def network_evaluations(self, rows: int) -> int:
        return rows * self.system.network_evaluations(self.samples.rows)

    def work(self, amount: int) -> list[Work]:
        rows, system = amount * self.samples.rows, self.system
        looks = system.sampler.moves + 1 if self.knows_noise else 1
        own = Work(self.discriminator.step, "forward", rows * looks, self.batch_size, system.precision)
        return [*system.work(rows), own]

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Returns the thresholds as JSON; the pieces of the samples are distributed over workers."""
        del store
        import numpy as np

        from dgflow.diffusion.selection.thresholds import Thresholds

        drawn, pieces = self.samples.origin, dict[int, Piece]()
        starts = range(drawn.start, drawn.stop, AT_ONCE)
        spread(partial(self._measurer, inputs), list(starts), pieces.__setitem__)
        levels = pieces[drawn.start][0]
        log_ratios = np.array([row for start in starts for row in pieces[start][1]])
        if np.isnan(log_ratios[:, -1]).any() or (self.knows_noise and np.isnan(log_ratios).any()):
            raise FloatingPointError(
                f"expected a log-ratio of every sample, found NaN in {self.name}; the discriminator or the "
                "score network gives it: look at their training curves, or take an earlier epoch"
            )
        tables = Thresholds.of(log_ratios, self.quantile, floor=self.floor)
        settings = {"quantile": self.quantile, "floor": self.floor, "samples": self.samples.rows}
        return canonical_json({"levels": levels, **tables._asdict(), **settings}).encode()

    def _measurer(self, inputs: Bound) -> Callable[[int], Piece]:
        """Loads the networks; the returned function gives the log-ratios of `AT_ONCE` samples."""
        import torch

        from dgflow.diffusion.acceleration import device, products
        from dgflow.diffusion.batches import Batches
        from dgflow.diffusion.selection.thresholds import log_ratios_along
        from dgflow.steps.systems import Networks

        system, guides = self.system, guides_of("samples.guidance", self.system.guidance)
        networks = Networks(inputs, device(), system.precision)
        score = networks.score("samples.score", system.score, system.guidance)
        terms = networks.terms(guides, gain_choices(guides, inputs))
        path = system.sampler.path(score, terms, networks.device)
        log_ratio = networks.log_ratio("discriminator", self.discriminator)
        batches, draws = Batches(self.batch_size, of=self.name), system.draws(inputs, 0, 0)
        stop, at_end = self.samples.origin.stop, not self.knows_noise

        def batch(first: int, last: int) -> list[list[float]]:
            draw = draws(torch.arange(first, last, device=networks.device))
            return log_ratios_along(path, draw, log_ratio, only_at_end=at_end).tolist()

        def piece(start: int) -> Piece:
            with products(system.precision):
                parts = batches.map(batch, start, min(start + AT_ONCE, stop))
            return list(path.levels), [row for part in parts for row in part]

        return piece
