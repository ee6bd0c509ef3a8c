"""The table of a sweep: a row per combination and arm, with the best value of each quantity and all values
within its error."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dgflow.specs.figures import Metric, directions
from dgflow.store.identity import canonical_json

RULE = (
    "* is the best of its column, ~ is within its error: it differs from the best by at most the sum of "
    "the two ±"
)
SELECTED_HERE = (
    "the best was chosen on the same seeds that are reported, which biases its value: `--select-on "
    "SEEDS` chooses on other seeds"
)


@dataclass(frozen=True)
class Value:
    """A quantity of a row: the mean of `values`, and their sample standard deviation, None for a single
    value; `error` is the standard error of a single value, if it is known."""

    mean: float
    spread: float | None
    error: float | None
    values: tuple[float, ...]

    @property
    def half_width(self) -> float | None:
        """The number behind ±: the spread, else the error of a single value; None if neither is known."""
        return self.error if self.spread is None else self.spread


@dataclass(frozen=True)
class Row:
    """An arm with one combination of the parameters that are not averaged over; a reference has none."""

    settings: Mapping[str, Any]
    arm: str
    values: Mapping[str, Value]
    repetitions: int = 1  # results that the row averages over


@dataclass(frozen=True)
class Best:
    """The best row of a quantity, and the other rows within its error."""

    row: int
    within_error: tuple[int, ...]


@dataclass(frozen=True)
class SweepTable:
    """Rows of the arms that differ between combinations, in the order of the grid; `references` are the arms
    that are the same in all of them."""

    title: str
    parameters: tuple[str, ...]  # names of the parameters in which the rows differ
    over: tuple[str, ...]
    zipped: bool
    quantities: Mapping[str, Metric]  # quantities that the rows have
    rows: Sequence[Row]
    references: Sequence[Row]
    best: Mapping[str, Best] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def arms(self) -> list[str]:
        """The names of the arms that have rows."""
        return list(dict.fromkeys(row.arm for row in self.rows))


def sweep_table(
    content: Mapping[str, Any],
    title: str = "",
    selected: bool = False,
    unchanged: Sequence[str] | None = None,
) -> SweepTable:
    """Returns the table of the content of a `Sweep`; `selected`: the best combination is chosen on one set of
    seeds and reported on another. `unchanged` are the arms that are references, if they are known; by default
    they are detected."""
    combinations = [
        {"settings": each["settings"], "arms": dict(each["arms"])} for each in content["combinations"]
    ]
    over = tuple(content["over"])
    shown = tuple(name for name in content["parameters"] if name not in over)
    groups = _groups(combinations, shown, over)
    fixed = _unchanged(combinations, groups) if unchanged is None else unchanged
    known = {name: Metric(**metric) for name, metric in content["quantities"]}
    settings = {
        _key(each["settings"], shown): {name: each["settings"][name] for name in shown}
        for each in combinations
    }
    rows = [
        _row(settings[key], arm, [arms[arm] for arms in group.values() if arm in arms], known)
        for key, group in groups.items()
        for arm in dict.fromkeys(arm for arms in group.values() for arm in arms)
        if arm not in fixed
    ]
    first = next(iter(groups.values()))
    references = [_row({}, arm, [arms[arm] for arms in first.values()], known) for arm in fixed]
    measured = {name: metric for name, metric in known.items() if any(name in row.values for row in rows)}
    several = len(groups) > 1
    ranked = {name: metric for name, metric in measured.items() if several and not metric.nearest}
    best = {name: _best(rows, name, metric) for name, metric in ranked.items()}
    table = SweepTable(
        title or f"Sweep over {options_text(content['parameters'])}",
        shown,
        over,
        content["zipped"],
        measured,
        rows,
        references,
        best,
    )
    notes = [*_notes(table, selected), *_same(combinations, content["parameters"]), *_warnings(combinations)]
    return replace(table, notes=notes)


def option_name(parameter: str) -> str:
    """Formats the name of an option, as in `guidance-weight`."""
    return parameter.replace("_", "-")


def options_text(parameters: Sequence[str]) -> str:
    """Formats names of options, as in `guidance-weight, steps and epochs`."""
    *others, last = map(option_name, parameters)
    return f"{', '.join(others)} and {last}" if others else last


def value_text(value: Any) -> str:
    """Formats a value as on a command line."""
    if isinstance(value, list | tuple):
        return ",".join(map(value_text, value))
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def settings_text(settings: Mapping[str, Any]) -> str:
    """Formats settings, as in `guidance-weight 2, epochs 4`."""
    return ", ".join(f"{option_name(name)} {value_text(value)}" for name, value in settings.items())


def _key(settings: Mapping[str, Any], names: Sequence[str]) -> str:
    return canonical_json([settings[name] for name in names])


_Arms = Mapping[str, Mapping[str, Any]]


def _groups(
    combinations: Sequence[Mapping[str, Any]], shown: Sequence[str], over: Sequence[str]
) -> dict[str, dict[str, _Arms]]:
    """Returns the arms of the combinations, by the values of the parameters that are shown, then by those
    that are averaged over."""
    groups: dict[str, dict[str, _Arms]] = {}
    for each in combinations:
        group = groups.setdefault(_key(each["settings"], shown), {})
        group[_key(each["settings"], over)] = each["arms"]
    return groups


def _unchanged(
    combinations: Sequence[Mapping[str, Any]], groups: Mapping[str, Mapping[str, _Arms]]
) -> list[str]:
    """Returns the arms that the parameters leave unchanged, if some arm is changed: in every group the same
    for each repetition; for a single group the same in every repetition."""
    first = next(iter(groups.values()))
    names = [
        name for name in next(iter(first.values())) if all(name in each["arms"] for each in combinations)
    ]
    if len(groups) > 1 and all(group.keys() == first.keys() for group in groups.values()):
        fixed = [
            name
            for name in names
            if all(group[key][name] == first[key][name] for group in groups.values() for key in first)
        ]
    else:
        arms = combinations[0]["arms"]
        fixed = [name for name in names if all(each["arms"][name] == arms[name] for each in combinations)]
    everything = {name for each in combinations for name in each["arms"]}
    return fixed if everything - set(fixed) and len(combinations) > 1 else []


def _row(
    settings: Mapping[str, Any],
    arm: str,
    repetitions: Sequence[Mapping[str, Any]],
    known: Mapping[str, Metric],
) -> Row:
    if all(each == repetitions[0] for each in repetitions):
        repetitions = repetitions[:1]  # without repetitions
    values = {
        name: _value([each[name] for each in repetitions])
        for name in known
        if all(name in each for each in repetitions)
    }
    return Row(settings, arm, values, len(repetitions))


def _value(measured: Sequence[Mapping[str, Any]]) -> Value:
    if len(measured) > 1:
        means = tuple(each["mean"] for each in measured)
        return Value(statistics.fmean(means), statistics.stdev(means), None, means)
    (only,) = measured
    errors = only.get("errors") or []
    error = errors[0] if len(errors) == 1 else None
    return Value(only["mean"], only["spread"], error, tuple(only["per_seed"]))


def _best(rows: Sequence[Row], name: str, metric: Metric) -> Best:
    with_value = [number for number, row in enumerate(rows) if name in row.values]
    sign = 1.0 if metric.lower_is_better else -1.0
    best = min(with_value, key=lambda number: sign * rows[number].values[name].mean)
    top = rows[best].values[name]

    def within(value: Value) -> bool:
        return abs(value.mean - top.mean) <= (value.half_width or 0.0) + (top.half_width or 0.0)

    near = [number for number in with_value if number != best and within(rows[number].values[name])]
    return Best(best, tuple(near))


def _notes(table: SweepTable, selected: bool) -> list[str]:
    """Returns the meaning of ± and of the marks."""
    values = [value for row in table.rows for value in row.values.values()]
    repeated = max(row.repetitions for row in table.rows)
    if repeated > 1:
        names = options_text(table.over)
        lines = [f"mean ± sample standard deviation over {repeated} repetitions with other {names}"]
    elif seeds := max((len(value.values) for value in values if value.spread is not None), default=0):
        lines = [f"mean ± sample standard deviation over {seeds} sampling seeds"]
    elif any(value.error is not None for value in values):
        lines = ["one sampling seed, so ± is the standard error estimated from the samples"]
    else:
        lines = ["one sampling seed, so the spread is unknown"]
    lines[0] += f"; {directions(table.quantities.values())}"
    if not table.best:
        return lines
    lines.append(RULE)
    if not selected:
        lines.append(SELECTED_HERE)
    return lines + _references_ahead(table)


def _references_ahead(table: SweepTable) -> list[str]:
    """Returns a line per quantity in which an unchanged arm is better than every combination."""
    lines = []
    for name, best in table.best.items():
        metric, top = table.quantities[name], table.rows[best.row].values[name].mean
        sign = 1.0 if metric.lower_is_better else -1.0
        ahead = [
            row.arm
            for row in table.references
            if name in row.values and sign * row.values[name].mean < sign * top
        ]
        if ahead:
            lines.append(f"{metric.heading}: {', '.join(ahead)} is better than every combination")
    return lines


def _same(combinations: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Returns a line if combinations have the same numbers in all arms: a parameter without effect."""
    first: dict[str, Mapping[str, Any]] = {}
    alike: list[str] = []
    for each in combinations:
        key, settings = canonical_json(each["arms"]), {name: each["settings"][name] for name in names}
        if key in first:
            alike.append(f"{settings_text(settings)} gives the same as {settings_text(first[key])}")
        first.setdefault(key, settings)
    more = f"; and {len(alike) - 1} more like it" if len(alike) > 1 else ""
    return [f"{alike[0]}{more}"] if alike else []


def _warnings(combinations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the warnings of the results about their arms, each once."""
    lines = (
        line for each in combinations for arm in each["arms"].values() for line in arm.get("warnings", ())
    )
    return [f"warning: {line}" for line in dict.fromkeys(lines)]
