"""Evaluate: arms of samples against one reference, as a table of numbers with their spread over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import model_validator

from dgflow.metrics.protocols import PROTOCOLS
from dgflow.specs.figures import Metric
from dgflow.specs.graph import graph
from dgflow.specs.spec import LATER
from dgflow.specs.step import Result, Slice, Spread, Weights
from dgflow.steps.arm_values import over_seeds
from dgflow.steps.judging.measure import Measure
from dgflow.steps.judging.measure_fields import Comparison
from dgflow.steps.judging.published_reference import PublishedReference
from dgflow.steps.judging.shared_samples import check_seeds_differ, trained_on
from dgflow.steps.sources.image_set import ImageSet
from dgflow.store.identity import canonical_json

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore


class Evaluate(Comparison):
    """A table of all arms, each measured against the reference by a `Measure`.

    An arm has one slice per sampling seed; its spread is the sample standard deviation over them, so that no
    two slices may share a sample. `floor` holds real images that are measured like an arm, as a lower bound.
    For the other fields see `Measure`.

    `beside` are results of other steps about the same systems, such as `Likelihood`. Their values for an arm
    (`compared`, by the arm's name) appear in its row, and their figures on the page.

    `Evaluate(arms=..., against=reference(NAME))` takes protocol, features, statistics and reference from a
    published reference; the step is the same as with these fields written out.
    """

    arms: dict[str, tuple[Slice, ...]]
    features: Weights
    floor: Slice | ImageSet | None = None
    beside: Annotated[tuple[Result, ...], LATER] = ()

    def __init__(self, *, against: PublishedReference | None = None, **fields: Any) -> None:
        super().__init__(**({} if against is None else against.fields()), **fields)

    @model_validator(mode="after")
    def _check_arms(self) -> Evaluate:
        sizes = {part.rows for arm in self.arms.values() for part in arm}
        if not self.arms or len(sizes) != 1:
            raise ValueError(
                "expected one or more arms of slices of one size (metrics depend on the number of "
                f"samples), found sizes {sorted(sizes)}"
            )
        for name, arm in self.arms.items():
            check_seeds_differ(name, arm)
            behind = {node.step.fingerprint for part in arm for node in graph(part.step)}
            if self.features.step.fingerprint in behind:
                raise ValueError(
                    f"arm {name!r} is made with {self.features.step.kind}, the network whose features "
                    "measure it: a network that guides may not judge; train another one"
                )
        _ = self.measures  # checks the rest
        self._check_beside()
        return self

    def _check_beside(self) -> None:
        known = dict.fromkeys(self.quantities, "the evaluation itself")
        for number, result in enumerate(self.beside):
            for name in result.step.columns:
                if name in known:
                    raise ValueError(
                        f"beside.{number}: expected quantities that the table does not have yet, found "
                        f"{name!r} of {result.title}, which {known[name]} measures too; leave one out"
                    )
                known[name] = result.title

    @property
    def columns(self) -> Mapping[str, Metric]:
        """The table's own metrics, then those of the results beside it."""
        others = (item for result in self.beside for item in result.step.columns.items())
        return {**self.quantities, **dict(others)}

    def cautions(self) -> list[str]:
        steps = [node.step for node in graph(self)]
        return [line for name, arm in self.arms.items() for line in trained_on(name, arm, steps)]

    @cached_property
    def measures(self) -> Mapping[str, Measure]:
        """The steps that measure the slices of an arm, `arms.NAME.NUMBER`, and the `floor`."""
        shared = {name: getattr(self, name) for name in ("features", *Comparison.model_fields)}
        parts = {
            f"arms.{name}.{place}": part for name, arm in self.arms.items() for place, part in enumerate(arm)
        }
        floor = {} if self.floor is None else {"floor": self.floor}
        return {name: Measure(samples=part, **shared) for name, part in (parts | floor).items()}

    def inputs(self) -> dict[str, Slice | Weights | Result]:
        """The measurements of every slice, as separate steps, so that adding an arm costs only that arm's
        work."""
        measured: dict[str, Slice | Weights | Result] = {
            name: measure.result() for name, measure in self.measures.items()
        }
        return measured | {f"beside.{number}": result for number, result in enumerate(self.beside)}

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Returns the table as JSON: `arms`, `floor`, and the provenance of the numbers."""
        del store
        measured = {name: json.loads(inputs.result(name)) for name in self.measures}
        arms: dict[str, Any] = {}
        for name, arm in self.arms.items():
            results = [measured[f"arms.{name}.{number}"] for number in range(len(arm))]
            arms[name] = _over_seeds(results) | {
                "n": arm[0].rows,
                "seeds": [part.drawn.seed for part in arm],
                "slices": [[part.start, part.stop] for part in arm],
                "lowest": self._lowest(results),
                "warnings": sorted({line for result in results for line in result["warnings"]}),
            }
        for number, result in enumerate(self.beside):
            compared = result.step.compared(inputs.result(f"beside.{number}"))
            for name in arms.keys() & compared.keys():
                known = result.step.columns.keys() & compared[name].keys()
                arms[name] |= {column: dict(compared[name][column]) for column in known}
        provenance = measured[f"arms.{next(iter(self.arms))}.0"]["provenance"]
        floor = None
        if self.floor is not None:
            floor = measured["floor"]["values"] | {"n": self.floor.rows}
            known = {line for arm in arms.values() for line in arm["warnings"]}
            if own := [line for line in measured["floor"]["warnings"] if line not in known]:
                floor["warnings"] = own
        return canonical_json({"arms": arms, "floor": floor, "reference": provenance}).encode()

    def compared(self, content: bytes) -> Mapping[str, Mapping[str, Any]]:
        arms = json.loads(content)["arms"]
        return {name: arms[name] for name in self.arms}

    def _lowest(self, results: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Returns the lowest FID and its label, if the arm has the seed ranges over which the protocol's
        papers report the minimum."""
        from dgflow.metrics.result import MetricResult, lowest

        published = [] if self.protocol is None else PROTOCOLS[self.protocol].seed_ranges
        fids = [MetricResult.model_validate(result) for result in results if "fid" in result["values"]]
        ranges = sorted(result.provenance.seed_range or (-1, -1) for result in fids)
        if not published or ranges != sorted(published):
            return None
        return lowest(fids).model_dump(include={"label", "fid"})


def _over_seeds(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns, by metric, the mean and sample standard deviation over the results, and each result's value
    and error."""
    table: dict[str, Any] = {}
    for metric in results[0]["values"]:
        values = [result["values"][metric] for result in results]
        table[metric] = over_seeds(values) | {"errors": [each["errors"].get(metric) for each in results]}
    return table
