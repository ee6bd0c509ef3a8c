"""The result of `CompareRefinements` as figures: each method with its best setting, all settings, and each
metric over operations per sample with its Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dgflow.specs.figures import Curve, Figure, Lines, Metric, Table
from dgflow.steps.arm_values import value_text

Arms = Mapping[str, Mapping[str, Any]]

_FRONT = "Pareto front"
_FRONT_NOTE = (
    "Each point is a setting of a method. No setting of at most the same cost is better than one on the "
    "front. The front is determined on the selection's seeds, so the reported one need not be monotone."
)


def refinement_figures(
    result: Mapping[str, Any],
    methods: Mapping[str, Sequence[str]],
    base: str,
    columns: Mapping[str, Metric],
    cost: str,
) -> Sequence[Figure]:
    """Returns the figures for the terminal and the page; `result` is the file of
    `CompareRefinements.compute`."""
    shown = {name: metric for name, metric in columns.items() if name in next(iter(result["arms"].values()))}
    return [
        _choices(result, methods, base, shown),
        _settings(result, methods, shown),
        *(_over_cost(result, methods, name, shown[name], shown[cost], cost) for name in result["fronts"]),
    ]


def _over_cost(
    result: Mapping[str, Any],
    methods: Mapping[str, Sequence[str]],
    name: str,
    metric: Metric,
    cost_metric: Metric,
    cost: str,
) -> Lines:
    arms: Arms = result["arms"]
    curves = [
        Curve(
            method,
            [arms[arm][cost]["mean"] for arm in settings],
            [arms[arm][name]["mean"] for arm in settings],
            [arms[arm][name]["spread"] or 0.0 for arm in settings],
        )
        for method, settings in methods.items()
    ]
    front = [(arms[arm][cost]["mean"], arms[arm][name]["mean"]) for arm in result["fronts"][name]]
    return Lines(
        f"{metric.heading} by cost{_over_seeds(result)}",
        curves,
        x_label=cost_metric.heading,
        y_label=metric.heading,
        log_x=True,
        front=(front, _FRONT),
        note=_FRONT_NOTE,
    )


def _choices(
    result: Mapping[str, Any], methods: Mapping[str, Sequence[str]], base: str, shown: Mapping[str, Metric]
) -> Table:
    heading = (
        "method",
        "setting",
        *(metric.heading for metric in shown.values()),
        "at equal cost",
        "change of FID",
    )
    rows = []
    for method in methods:
        arm = result["chosen"][method]
        cells = _cells(result["arms"][arm], shown)
        rows.append((method, _setting(arm, method), *cells, *_gain(result, method, base)))
    front = result["fronts"]["fid"]
    marked = [number for number, method in enumerate(methods) if result["chosen"][method] in front]
    chosen_on = ", ".join(map(str, result["chosen_on"]))
    notes = [
        f"settings chosen by FID on the seeds {chosen_on}, reported on others{_over_seeds(result)}",
        f"at equal cost: the setting of {base} with the lowest FID on the seeds of the choice, among those "
        "of at most as many operations per sample, or the cheapest if all need more; the change of FID from "
        "it is taken seed by seed, with the 95 % interval of its mean",
        "* is on the Pareto front of FID and operations per sample, on the seeds of the choice",
    ]
    return Table("Each method in its best setting", heading, rows, marked, "\n".join(notes))


def _gain(result: Mapping[str, Any], method: str, base: str) -> tuple[str, str]:
    """Returns the base's setting at equal cost, and the change of FID from it as text."""
    if method == base:
        return "", ""
    gain, rival = result["gains"][method], _setting(result["rivals"][method], base)
    change, interval = -gain["mean"], gain["interval"]
    if interval is None:
        return rival, f"{change:+.2f}, one seed"
    word = "lower" if change < -interval else "higher" if change > interval else "within error"
    return rival, f"{change:+.2f} ± {interval:.2f}, {word}"


def _settings(
    result: Mapping[str, Any], methods: Mapping[str, Sequence[str]], shown: Mapping[str, Metric]
) -> Table:
    chosen, arms = set(result["chosen"].values()), [arm for method in methods.values() for arm in method]
    heading = ("arm", "FID to choose by", *(metric.heading for metric in shown.values()))
    rows = [
        (arm, f"{result['selection'][arm]['fid']:.2f}", *_cells(result["arms"][arm], shown)) for arm in arms
    ]
    marked = [number for number, arm in enumerate(arms) if arm in chosen]
    return Table("All settings", heading, rows, marked, f"* is chosen{_over_seeds(result)}")


def _cells(arm: Mapping[str, Any], shown: Mapping[str, Metric]) -> list[str]:
    return [value_text(arm[name], metric.decimals) if name in arm else "" for name, metric in shown.items()]


def _setting(arm: str, method: str) -> str:
    return arm.removeprefix(f"{method}, ")


def _over_seeds(result: Mapping[str, Any]) -> str:
    arm = next(iter(result["arms"].values()))
    seeds = len(arm["seeds"])
    return f", mean and spread over {seeds} seeds" if seeds > 1 else ""
