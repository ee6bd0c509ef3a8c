"""The result of `CompareTranslations` as figures: FID over each distance to the source, how far each curve
lies below that of the reference arm, and both axes by start time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dgflow.metrics.protocols import DECIMALS
from dgflow.specs.figures import Curve, Figure, Lines, Metric, Table
from dgflow.steps.arm_values import value_text

Point = Mapping[str, Any]

_LIFT_NOTE = (
    "FID of {first} minus that of the arm at the same distance to the source, on average over the "
    "distances that both reach, each curve being linear between its start times. Above 0, the arm is "
    "more realistic at the same faithfulness."
)


def translation_figures(result: Mapping[str, Any], distances: Mapping[str, Metric]) -> Sequence[Figure]:
    """Returns the figures for the page; `result` is the file of `CompareTranslations.compute`, arms in their
    order."""
    curves = result["curves"]
    seeds = len(result["seeds"])
    spread = f", mean and spread over {seeds} seeds" if seeds > 1 else ""
    starts = sorted({point["start"] for points in curves.values() for point in points})
    times = ", ".join(f"{start:g}" for start in starts)
    over = [
        Lines(
            f"FID over {metric.heading}{spread}",
            [_curve(name, points, key) for name, points in curves.items()],
            metric.heading,
            "FID",
            level=(result["source_fid"], "the source images"),
            note=f"Points from left to right: start times {times}. Below and to the left is better.",
        )
        for key, metric in distances.items()
    ]
    by_start = [
        Lines(
            f"{heading} by start time{spread}",
            [_by_start(name, points, key) for name, points in curves.items()],
            "start time (linear-VP)",
            heading,
        )
        for key, heading in (("fid", "FID"), *((key, metric.heading) for key, metric in distances.items()))
    ]
    return [*over, *_lift(result, distances), *by_start]


def _lift(result: Mapping[str, Any], distances: Mapping[str, Metric]) -> list[Table]:
    lift = result["lift"]
    if not lift:
        return []
    # In the file's order; arms in another order share the file.
    (first,) = (name for name in result["curves"] if name not in lift)
    heading = ("arm", *(f"over {metric.heading}" for metric in distances.values()))
    rows = [(name, *(_value(found[key]) for key in distances)) for name, found in lift.items()]
    return [
        Table(
            "How much lower FID is at the same faithfulness",
            heading,
            rows,
            note=_LIFT_NOTE.format(first=first),
        )
    ]


def _value(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "no distance in common"
    return value_text(value, DECIMALS["fid"])


def _curve(name: str, points: Sequence[Point], distance: str) -> Curve:
    """Returns the curve of FID over a distance."""
    ordered = sorted(points, key=lambda point: point[distance]["mean"])
    return _errors(name, [point[distance]["mean"] for point in ordered], [point["fid"] for point in ordered])


def _by_start(name: str, points: Sequence[Point], key: str) -> Curve:
    return _errors(name, [point["start"] for point in points], [point[key] for point in points])


def _errors(name: str, x: list[float], values: Sequence[Mapping[str, Any]]) -> Curve:
    spreads = [value["spread"] for value in values]
    return Curve(name, x, [value["mean"] for value in values], None if None in spreads else spreads)
