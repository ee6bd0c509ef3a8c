"""The figures of a sweep: its table, and per quantity curves over one parameter or a heat map over two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dgflow.specs.figures import Curve, Figure, HeatMap, Lines, Metric, Table
from dgflow.steps.sweeping.sweep_table import (
    Row,
    SweepTable,
    Value,
    option_name,
    options_text,
    settings_text,
    value_text,
)

MOST_CURVES = 8  # in one figure
WIDE = 10.0  # ratio of a parameter's largest to smallest value from which its axis is logarithmic


def sweep_figures(table: SweepTable) -> list[Figure]:
    """Returns the table; curves with error bars over one numeric parameter (for zipped ones over the first),
    or a heat map over two parameters or over a non-numeric one. With more parameters, curves over the first,
    one per combination of the others, if these are few."""
    figures: list[Figure] = [table_figure(table)]
    if len(table.rows) < 2 or not table.parameters:
        return figures
    for name, metric in table.quantities.items():
        if len(table.parameters) == 2 and not table.zipped:
            figures += [_heat_map(table, name, metric, arm) for arm in table.arms]
        elif _is_numeric(table, table.parameters[0]):
            curves = _curves(table, name)
            if len(curves) <= MOST_CURVES:
                figures.append(_lines(table, name, metric, curves))
        elif len(table.parameters) == 1:
            figures += [_heat_map(table, name, metric, arm) for arm in table.arms]
    return figures


def table_figure(table: SweepTable) -> Table:
    """Returns the rows as text, with a column of arms if there are several, then the references."""
    with_arms = len(table.arms) > 1 or bool(table.references) or not table.parameters
    heading = [*map(option_name, table.parameters), *(["arm"] if with_arms else [])]
    heading += [metric.heading for metric in table.quantities.values()]

    def cells(row: Row, number: int | None) -> list[str]:
        own = [value_text(row.settings[name]) if row.settings else "" for name in table.parameters]
        values = [
            f"{value_shown(row.values.get(name), metric)}{_mark(table, name, number)}"
            for name, metric in table.quantities.items()
        ]
        return [*own, *([row.arm] if with_arms else []), *values]

    rows = [cells(row, number) for number, row in enumerate(table.rows)]
    rows += [cells(row, None) for row in table.references]
    first = next(iter(table.best.values()), None)
    marked = () if first is None else (first.row,)
    return Table(table.title, heading, rows, marked, "\n".join(table.notes))


def value_shown(value: Value | None, metric: Metric) -> str:
    """Formats a value, as in `29.49 ± 0.41`, without a sign if it rounds to zero; empty if there is none."""
    if value is None:
        return ""
    text = metric.shown(value.mean)
    return text if value.half_width is None else f"{text} ± {value.half_width:,.{metric.decimals}f}"


def _mark(table: SweepTable, name: str, number: int | None) -> str:
    """Returns the mark behind a value; blanks if there is none, so that the columns stay aligned."""
    best = table.best.get(name)
    if best is None:
        return ""
    return " *" if number == best.row else " ~" if number in best.within_error else "  "


def _is_numeric(table: SweepTable, parameter: str) -> bool:
    values = [row.settings[parameter] for row in table.rows]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _curves(table: SweepTable, name: str) -> list[Curve]:
    """Returns a curve over the first parameter per arm and combination of the others (for zipped ones per
    arm)."""
    first, *others = table.parameters
    if table.zipped:
        others = []
    series: dict[tuple[str, str], list[Row]] = {}
    for row in table.rows:
        if name in row.values:
            rest = settings_text({other: row.settings[other] for other in others})
            series.setdefault((row.arm, rest), []).append(row)
    several = len(table.arms) > 1
    curves = []
    for (arm, rest), rows in series.items():
        rows = sorted(rows, key=lambda row: row.settings[first])
        values = [row.values[name] for row in rows]
        known = any(value.half_width is not None for value in values)
        label = ", ".join([*([arm] if several or not rest else []), *([rest] if rest else [])])
        x, y = [float(row.settings[first]) for row in rows], [value.mean for value in values]
        curves.append(Curve(label, x, y, [value.half_width or 0.0 for value in values] if known else None))
    return curves


def _lines(table: SweepTable, name: str, metric: Metric, curves: Sequence[Curve]) -> Lines:
    first = table.parameters[0]
    x = [each for curve in curves for each in curve.x]
    best = table.best.get(name)
    reference = next((row for row in table.references if name in row.values), None)
    others = [option_name(each) for each in table.parameters[1:]] if table.zipped else []
    return Lines(
        f"{metric.heading} by {option_name(first)}",
        curves,
        x_label=" and ".join([option_name(first), *others]),
        y_label=metric.heading,
        log_x=min(x) > 0 and max(x) >= WIDE * min(x),
        mark=None if best is None else (float(table.rows[best.row].settings[first]), "best"),
        level=None if reference is None else (reference.values[name].mean, reference.arm),
    )


def _heat_map(table: SweepTable, name: str, metric: Metric, arm: str) -> HeatMap:
    """Returns one arm by two parameters: columns are the values of the second, rows those of the first; with
    a single parameter there is one row."""
    down, across = table.parameters if len(table.parameters) == 2 else (None, table.parameters[0])
    rows = {number: row for number, row in enumerate(table.rows) if row.arm == arm and name in row.values}

    def texts(parameter: str | None) -> list[str]:
        found = (row.settings for row in table.rows)
        return list(dict.fromkeys(_text(settings, parameter) for settings in found))

    columns, lines = texts(across), texts(down)
    places = {
        (lines.index(_text(row.settings, down)), columns.index(_text(row.settings, across))): number
        for number, row in rows.items()
    }
    cells = [
        [
            rows[places[line, column]].values[name] if (line, column) in places else None
            for column in range(len(columns))
        ]
        for line in range(len(lines))
    ]
    best = table.best.get(name)
    best_rows = () if best is None else (best.row, *best.within_error)
    several = f", {arm}" if len(table.arms) > 1 else ""
    return HeatMap(
        f"{metric.heading} by {options_text(table.parameters)}{several}",
        x_label=option_name(across),
        y_label="" if down is None else option_name(down),
        columns=columns,
        rows=lines,
        values=[[None if cell is None else cell.mean for cell in line] for line in cells],
        texts=[[value_shown(cell, metric) for cell in line] for line in cells],
        marked=[place for place, number in places.items() if number in best_rows],
        lower_is_better=metric.lower_is_better,
    )


def _text(settings: Mapping[str, Any], parameter: str | None) -> str:
    return "" if parameter is None else value_text(settings[parameter])
