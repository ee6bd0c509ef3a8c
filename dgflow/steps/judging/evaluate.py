"""Evaluate: arms of samples against one reference, as a table of numbers with their spread over seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from dgflow.metrics.protocols import PROTOCOLS, Distances, MetricName
from dgflow.specs.step import Result, ResultStep, Slice, Spread, Step, Weights
from dgflow.steps.judging.measure import Measure
from dgflow.steps.judging.published_reference import PublishedReference
from dgflow.steps.sources.image_set import ImageSet, StatisticsFile
from dgflow.store.identity import canonical_json

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore


class Evaluate(ResultStep):
    """Every arm measured against the reference, in the features of `features`: what `Measure` gives,
    gathered.

    An arm is one slice a sampling seed; its spread is the sample standard deviation over them. `floor` holds
    real images that are measured like an arm: what samples could reach at best, at their own number. Without
    a `protocol` the features are those of a classifier that was trained here. The other fields are those of
    `Measure`.

    `Evaluate(arms=..., against=reference(NAME))` takes protocol, features, statistics and reference from a
    published reference; the step is the same as with these fields written out.
    """

    arms: dict[str, tuple[Slice, ...]]
    reference: Slice | ImageSet | None = None
    features: Weights
    floor: Slice | ImageSet | None = None
    protocol: Literal["adm", "edm", "clean"] | None = None
    statistics: StatisticsFile | Result | None = None
    metrics: tuple[MetricName, ...] | None = None
    neighbours: int = Field(default=3, gt=0)  # k of precision and recall
    distances: Distances = "exact"

    def __init__(self, *, against: PublishedReference | None = None, **fields: Any) -> None:
        super().__init__(**({} if against is None else against.fields()), **fields)

    @model_validator(mode="after")
    def _fair(self) -> Evaluate:
        sizes = {part.rows for arm in self.arms.values() for part in arm}
        if not self.arms or len(sizes) != 1:
            raise ValueError(
                "expected one or more arms of slices of one size (metrics depend on the number of "
                f"samples), found sizes {sorted(sizes)}"
            )
        for name, arm in self.arms.items():
            if any(
                step.fingerprint == self.features.step.fingerprint
                for part in arm
                for step in _behind(part.step)
            ):
                raise ValueError(
                    f"arm {name!r} is made with {self.features.step.kind}, the network that is to judge it: "
                    "what guides may not judge; train another"
                )
        list(self._measures())  # which find what else is wrong with them
        return self

    def _measures(self) -> Iterator[tuple[str, Measure]]:
        shared = {name: getattr(self, name) for name in Measure.model_fields if name != "samples"}
        for name, arm in self.arms.items():
            for number, part in enumerate(arm):
                yield f"arms.{name}.{number}", Measure(samples=part, **shared)
        if self.floor is not None:
            yield "floor", Measure(samples=self.floor, **shared)

    def inputs(self) -> dict[str, Slice | Weights | Result]:
        """The numbers of every slice: steps of their own, so that an arm more costs only what is new in it."""
        return {name: measure.result() for name, measure in self._measures()}

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """The table as JSON: `arms`, `floor`, and what the numbers depend on."""
        del store
        found = {name: json.loads(inputs.result(name)) for name in inputs.items}
        arms = {}
        for name, arm in self.arms.items():
            results = [found[f"arms.{name}.{number}"] for number in range(len(arm))]
            arms[name] = _over_seeds(results) | {
                "n": arm[0].rows,
                "seeds": [getattr(part.step, "seed", None) for part in arm],
                "slices": [[part.start, part.stop] for part in arm],
                "lowest": self._lowest(results),
                "warnings": sorted({line for result in results for line in result["warnings"]}),
            }
        provenance = found[f"arms.{next(iter(self.arms))}.0"]["provenance"]
        floor = None if self.floor is None else found["floor"]["values"] | {"n": self.floor.rows}
        return canonical_json({"arms": arms, "floor": floor, "reference": provenance}).encode()

    def _lowest(self, results: list[dict[str, Any]]) -> dict[str, Any] | None:
        """The lowest FID and how to call it, where the arm is the seed ranges of which the protocol's papers
        report the lowest."""
        from dgflow.metrics.result import MetricResult, lowest

        published = [] if self.protocol is None else PROTOCOLS[self.protocol].seed_ranges
        found = [MetricResult.model_validate(result) for result in results if "fid" in result["values"]]
        if not published or sorted(one.provenance.seed_range or (-1, -1) for one in found) != sorted(
            published
        ):
            return None
        return lowest(found).model_dump(include={"label", "fid"})


def _over_seeds(results: list[dict[str, Any]]) -> dict[str, Any]:
    """By metric: mean and sample standard deviation over the results, their values, and what each result says
    of its own error."""
    table: dict[str, Any] = {}
    for metric in results[0]["values"]:
        values = [result["values"][metric] for result in results]
        table[metric] = {
            "mean": statistics.fmean(values),
            "spread": statistics.stdev(values) if len(values) > 1 else None,
            "per_seed": values,
            "errors": [result["errors"].get(metric) for result in results],
        }
    return table


def _behind(step: Step) -> Iterator[Step]:
    """`step` and every step that it is made from."""
    yield step
    for reference in step.inputs().values():
        yield from _behind(reference.step)
