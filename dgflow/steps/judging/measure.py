"""Measure: one set of samples against one reference, in every metric of a protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dgflow.specs.step import Spread
from dgflow.steps.judging.measure_fields import MeasureFields

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore


class Measure(MeasureFields):
    """Measures `samples` against `reference`, in the features of `features`, by a `protocol`; without one, by
    a classifier that was trained in the recipe.

    Args:
        samples: images, or only their statistics, from which only FID and sFID can be measured.
        features: the network; not needed if both sides are statistics.
        reference: images. If `statistics` are given too, FID and sFID are measured against those, as OpenAI
            publishes them.
        statistics: a file, read when the recipe is built; or the result of a `PublishedStatistics`, which is
            fetched when it runs.
        metrics: in the table's order; by default all metrics of the protocol that the inputs allow.
        neighbours: k of precision and recall.
        distances: of precision and recall; "openai-float16" rounds as OpenAI's evaluator does.
    """

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Returns a `MetricResult` as JSON."""
        del store
        from dgflow.steps.judging.metric_values import measured

        return measured(self, inputs, spread).encoded()

    def compared(self, content: bytes) -> Mapping[str, Mapping[str, Any]]:
        result = json.loads(content)
        arm = {
            name: {"mean": value, "spread": None, "per_seed": [value], "errors": [result["errors"].get(name)]}
            for name, value in result["values"].items()
        }
        return {"samples": arm | {"warnings": result["warnings"]}}
