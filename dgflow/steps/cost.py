"""Cost: the operations to train and to sample the arms of a comparison."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

from pydantic import model_validator

from dgflow.estimate.operations import Networks, Operations
from dgflow.specs.figures import Figure, Metric, Table
from dgflow.specs.graph import graph
from dgflow.specs.step import Measurements, ResultStep, Slice, Spread, Step, Work
from dgflow.specs.train_step import TrainStep
from dgflow.steps.arm_values import over_seeds
from dgflow.steps.sampling import Sampling
from dgflow.store.identity import canonical_json

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore
    from dgflow.store.shards import Columns


class Cost(ResultStep):
    """The operations of arms, for `Evaluate(beside=(cost.result(),))`, counted as in `plan --device`.

    `training` counts every training behind an arm, the samples that it used, and the measurements behind the
    arm (`Gain`, `RejectionThresholds`). A training counts with all its epochs, whichever epoch is used.
    `sampling` is per image; if a selection decides how often the networks are evaluated, it is computed from
    the evaluations that the samples record. Both count convolutions and matrix products (a multiplication and
    an addition are two operations), so that they depend neither on the machine nor on its load. Networks that
    were trained elsewhere count as zero.
    """

    quantities: ClassVar[Mapping[str, Metric]] = {
        "training": Metric("training TFLOP", decimals=2),
        "sampling": Metric("GFLOP per sample", decimals=3),
    }

    arms: dict[str, tuple[Slice, ...]]

    @model_validator(mode="after")
    def _has_arms(self) -> Cost:
        if not self.arms or not all(self.arms.values()):
            raise ValueError(
                "arms: expected one or more arms with a slice of samples each, found an empty one"
            )
        for name, arm in self.arms.items():
            if len({_made(part) for part in arm}) > 1:
                raise ValueError(
                    f"arm {name!r}: expected slices of the same trainings and sampler, since the arm has "
                    "one cost, found different ones; put each into a separate arm"
                )
        return self

    @property
    def is_fetched(self) -> bool:
        return False

    def inputs(self) -> dict[str, Measurements | Slice]:
        """Returns all epochs of the trainings, since the samples name only the epoch that they use, and the
        samples of selections."""
        trainings = {
            f"arms.{name}.{number}": training.measurements()
            for name, arm in self.arms.items()
            for number, training in enumerate(_trainings(arm[0]))
        }
        selected = {
            f"selected.{name}.{number}": each
            for name, arm in self.arms.items()
            for number, part in enumerate(arm)
            for each in sampled_by(part)
            if _is_selected(each.step)
        }
        return {**trainings, **selected}

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Computes `arms`, as in `compared`, and `trainings`: TFLOP of every step behind the arms, and the
        arms that it serves."""
        del spread, store
        operations = Operations(Networks())
        arms: dict[str, Any] = {}
        steps: dict[str, dict[str, Any]] = {}
        for name, arm in self.arms.items():
            total = 0.0
            for key, step, parts in _trained_on(arm[0]):
                flop = operations.total(step.work(step.amount(parts)))
                total += flop
                if flop:
                    row = {"step": step.name, "title": step.title, "tflop": flop / 1e12, "arms": []}
                    steps.setdefault(f"{key} {parts[-1]}", row)["arms"].append(name)
            sampling = []
            for number, part in enumerate(arm):
                samples = partial(inputs.rows, f"selected.{name}.{number}")
                works = (work for each in sampled_by(part) for work in _work(each, part.rows, samples))
                sampling.append(operations.total(works) / part.rows / 1e9)
            arms[name] = {
                "training": _same(total / 1e12, len(arm)),
                "sampling": _same(sampling[0], len(arm)) if len(set(sampling)) == 1 else over_seeds(sampling),
            }
        return canonical_json({"arms": arms, "trainings": list(steps.values())}).encode()

    def compared(self, content: bytes) -> Mapping[str, Mapping[str, Any]]:
        arms = json.loads(content)["arms"]
        return {name: arms[name] for name in self.arms}

    def figures(self, content: bytes) -> Sequence[Figure]:
        rows = [
            (row["title"], f"{row['tflop']:,.2f}", self._named(row["arms"]))
            for row in json.loads(content)["trainings"]
        ]
        note = "Networks that were trained elsewhere count as zero."
        return (Table("Where the training goes", ("step", "TFLOP", "arms"), rows, note=note),)

    def _named(self, arms: Sequence[str]) -> str:
        return "all" if len(arms) == len(self.arms) else ", ".join(arms)


def _trainings(part: Slice) -> list[TrainStep]:
    """Returns every training behind `part`."""
    return [node.step for node in graph(part) if isinstance(node.step, TrainStep)]


def _made(part: Slice) -> tuple[object, ...]:
    """Returns a key that is equal for slices of the same cost."""
    trained = ((training.variant, training.epochs) for training in _trainings(part))
    samplings = [each.step for each in sampled_by(part) if isinstance(each.step, Sampling)]
    return (*trained, *((step.sampler, step.selection) for step in samplings))


def _trained_on(part: Slice) -> Iterator[tuple[str, Step, list[int]]]:
    """Yields (variant, step, parts) of every training and measurement behind `part`, and of every step behind
    one of these, once each."""
    found: dict[str, tuple[Step, set[int]]] = {}
    for prepared in (node.step for node in graph(part) if isinstance(node.step, TrainStep | ResultStep)):
        for behind in graph(prepared):
            step, parts = found.setdefault(behind.step.variant, (behind.step, set()))
            parts |= set(behind.step.parts(behind.slices))
    for variant, (step, parts) in found.items():
        yield variant, step, sorted(parts)


def sampled_by(part: Slice) -> Iterator[Slice]:
    """Yields `part` and the slices that it is derived from, step by step. Every step derives its samples from
    at most one slice, so at most one of the yielded slices is selected."""
    yield part
    for reference in part.step.reads.values():
        if isinstance(reference, Slice):
            yield from sampled_by(part.origin if reference.step is part.origin.step else reference)


def _is_selected(step: Step) -> TypeGuard[Sampling]:
    """True for samples that record their evaluations."""
    return isinstance(step, Sampling) and step.selection is not None


def _work(part: Slice, rows: int, samples: Callable[[Sequence[str]], Columns]) -> list[Work]:
    """Returns the evaluations of `rows` samples like those of `part`; `samples` reads columns of `part` if
    these record them."""
    step = part.step
    if not _is_selected(step):
        return step.work(rows)
    names = ["score_evaluations", "discriminator_evaluations", *["guide_evaluations"] * bool(step.guides)]
    shares = {
        name: column.sum(axis=0, dtype=float) * rows / part.rows for name, column in samples(names).items()
    }
    totals = {name: share.tolist() for name, share in shares.items()}
    guides = totals.get("guide_evaluations", [])
    return step.work_of(totals["score_evaluations"], guides, totals["discriminator_evaluations"])


def _same(value: float, seeds: int) -> dict[str, Any]:
    return {"mean": value, "spread": None, "per_seed": [value] * seeds}
