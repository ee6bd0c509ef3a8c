"""Evaluate: arms of samples against real images, as a table of numbers with their spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from dgflow.steps.features import Features
from dgflow.steps.step import Slice, Step, Weights

if TYPE_CHECKING:
    from dgflow.steps.binding import Bound

METRICS = ("fid", "is", "precision", "recall")


class Evaluate(Step):
    """FID, Inception score, precision and recall of every arm against `reference`, in the features of `features`.

    An arm is one slice a sampling seed; its spread is the sample standard deviation over them. `floor` holds real images that are measured
    like an arm: what samples could reach at best, at their own number.
    """

    arms: dict[str, tuple[Slice, ...]]
    reference: Slice
    features: Weights
    floor: Slice
    neighbours: int = Field(default=3, gt=0)  # k of precision and recall

    @model_validator(mode="after")
    def _fair(self) -> Evaluate:
        sizes = {part.rows for arm in self.arms.values() for part in arm}
        if not self.arms or len(sizes) != 1:
            raise ValueError(
                f"expected one or more arms of slices of one size (metrics depend on the number of samples), found sizes {sorted(sizes)}"
            )
        overlap = (
            self.floor.step == self.reference.step and self.floor.start < self.reference.stop and self.reference.start < self.floor.stop
        )
        if overlap:
            raise ValueError("expected a floor of other real images than the reference, found slices that overlap")
        for name, arm in self.arms.items():
            if any(step.fingerprint == self.features.step.fingerprint for part in arm for step in _behind(part.step)):
                raise ValueError(
                    f"arm {name!r} is made with {self.features.step.kind}, the network that is to judge it: "
                    "what guides may not judge; train another"
                )
        return self

    def inputs(self) -> dict[str, Slice | Weights]:
        """The features of every slice: steps of their own, so that a comparison more costs only what is new in it."""
        parts = {f"arms.{name}.{number}": part for name, arm in self.arms.items() for number, part in enumerate(arm)}
        parts |= {"reference": self.reference, "floor": self.floor}
        return {name: Features(samples=part, network=self.features)[: part.rows] for name, part in parts.items()}

    def compute(self, inputs: Bound) -> dict[str, Any]:
        """The table as JSON data: `arms`, `floor`, and what the numbers depend on."""
        reference = inputs.rows("reference", ["features"])["features"]

        def measured(name: str) -> dict[str, float]:
            from dgflow.metrics import Moments, frechet_distance, inception_score, precision_recall

            rows = inputs.rows(name, ["features", "logits"])
            shared = precision_recall(reference, rows["features"], k=self.neighbours)
            return {
                "fid": frechet_distance(Moments.of(rows["features"]), Moments.of(reference)),
                "is": float(inception_score(rows["logits"]).mean),
                "precision": float(shared.precision),
                "recall": float(shared.recall),
            }

        arms = {name: _over_seeds([measured(f"arms.{name}.{number}") for number in range(len(arm))]) for name, arm in self.arms.items()}
        for name, arm in self.arms.items():
            arms[name] |= {"n": arm[0].rows, "seeds": [getattr(part.step, "seed", None) for part in arm]}
        return {
            "arms": arms,
            "floor": measured("floor") | {"n": self.floor.rows},
            "reference": {
                "n": self.reference.rows,
                "digest": inputs.digests["reference"],
                "features": self.features.step.fingerprint,
                "k": self.neighbours,
            },
        }


def _over_seeds(results: list[dict[str, float]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for metric in METRICS:
        values = [result[metric] for result in results]
        table[metric] = {
            "mean": statistics.fmean(values),
            "spread": statistics.stdev(values) if len(values) > 1 else None,
            "per_seed": values,
        }
    return table


def _behind(step: Step) -> Iterator[Step]:
    """`step` and every step that it is made from."""
    yield step
    for reference in step.inputs().values():
        yield from _behind(reference.step)
