"""What the parts of a plan that are missing take: how often which network is evaluated, and how much is
written down.

Promises plain arithmetic from the steps' fields, the same for every estimate. What an evaluation takes is
left to `exercise`, which counts or times it. Work without a network (reading, decoding and resizing images,
distances of features) is not in here. Loads no torch but for the evaluations of guided samples, whose number
needs the sampler's noise levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dgflow.diffusion.guidance_specs import ClassifierFree
from dgflow.engine.plan import StepPlan
from dgflow.specs.spec import Precision
from dgflow.specs.step import NetworkStep, SampleStep, Slice, TrainStep
from dgflow.steps.decode import Decode
from dgflow.steps.encode import Encode
from dgflow.steps.generate import Generate
from dgflow.steps.guides import guide_of
from dgflow.steps.judging.features import Features
from dgflow.steps.training.train_discriminator import MEASURED_LEVELS as PAIR_LEVELS
from dgflow.steps.training.train_discriminator import TrainDiscriminator
from dgflow.steps.training.train_score import MEASURED_LEVELS as SCORE_LEVELS
from dgflow.steps.training.train_score import TrainScore

Use = Literal["forward", "gradient", "train", "encode", "decode"]
"""gradient: forward, and backward to the input, with frozen weights. train: forward, and backward to the
weights that learn. encode and decode: one pass of that half of an autoencoder."""


@dataclass(frozen=True)
class Work:
    """`times` evaluations of one row each are still to do, in batches of at most `batch`."""

    network: NetworkStep
    use: Use
    times: float
    batch: int
    precision: Precision = "float32"


def amount(made: StepPlan) -> int:
    """How many samples, epochs or results are missing."""
    step = made.step
    if isinstance(step, SampleStep):
        return sum(stop - start for start, stop in map(step.shard_range, made.missing))
    return len(made.missing)


def work_of(made: StepPlan) -> list[Work]:
    """What the missing parts of a step take of networks; nothing where no network runs."""
    step, rows = made.step, amount(made)
    if not rows:
        return []
    if isinstance(step, Generate):
        return _sampling(step, rows)
    if isinstance(step, Features):
        return [Work(step.network.step, "forward", rows, step.batch_size)]
    if isinstance(step, Encode):
        return [
            Work(step.vae.step, "encode", step.network_evaluations(rows), step.batch_size, step.precision)
        ]
    if isinstance(step, Decode):
        return [Work(step.vae.step, "decode", rows, step.batch_size, step.precision)]
    if isinstance(step, TrainStep):
        return _training(step, rows)
    return []


def _sampling(step: Generate, rows: int) -> list[Work]:
    found = [
        Work(step.score.step, "forward", step.network_evaluations(rows), step.batch_size, step.precision)
    ]
    guides = [guide_of(term) for term in step.guidance if not isinstance(term, ClassifierFree)]
    if guides:
        from dgflow.estimate.guide_evaluations import guide_evaluations

        asked = zip(guides, guide_evaluations(step), strict=True)
        found += [
            Work(guide.step, "gradient", rows * times, step.batch_size, step.precision)
            for guide, times in asked
        ]
    return found


def _training(step: TrainStep, epochs: int) -> list[Work]:
    pairs = isinstance(step, TrainDiscriminator)
    real: Slice = step.real  # type: ignore[attr-defined]
    training, held = step.split(real.rows, of=real.step.name)
    trained = step.steps_per_epoch(training, share=2 if pairs else 1) * step.batch_size
    measured = held
    if pairs:
        measured = 2 * PAIR_LEVELS * min(held, step.split(step.fake.rows, of=step.fake.step.name)[1])
    elif isinstance(step, TrainScore):
        measured = held * SCORE_LEVELS
    precision: Precision = getattr(step, "precision", "float32")
    uses: list[tuple[Use, int]] = [("train", trained), ("forward", measured)]
    return [Work(step, use, epochs * times, step.batch_size, precision) for use, times in uses if times]
