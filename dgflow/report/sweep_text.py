"""Formats the table of a sweep as text, as CSV and as JSON data."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from dgflow.report.layout import aligned, ruled
from dgflow.runtime.terminal import printable, wrapped
from dgflow.specs.figures import Table
from dgflow.steps.sweeping.sweep_figures import table_figure
from dgflow.steps.sweeping.sweep_table import Row, SweepTable, option_name, value_text


def as_text(table: SweepTable) -> str:
    """Returns the table as text: title, rows, notes. Arms that no parameter changes are below a rule."""
    figure: Table = table_figure(table)
    left = [number for number, name in enumerate(figure.heading) if name == "arm"]
    cells = [[printable(cell) for cell in row] for row in (figure.heading, *figure.rows)]
    lines = ruled([line.rstrip() for line in aligned(cells, left=left)])
    if table.references:
        lines.insert(len(lines) - len(table.references), lines[1])
    notes = [line for note in table.notes for line in wrapped(note, hanging="  ")]
    return "\n".join([f"{figure.title}", "", *lines, "", *notes])


def as_json(table: SweepTable) -> dict[str, Any]:
    """Returns the table as JSON data.

    `rows`, and `references` for arms that no parameter changes, have `settings`, `arm` and a mapping per
    quantity: `mean`, `spread`, the standard `error` of a single value, and `values`. `best` has for each
    quantity the number of the best row, and the numbers of the rows within its error.
    """
    return {
        "title": table.title,
        "parameters": list(table.parameters),
        "over": list(table.over),
        "quantities": {name: vars(metric) for name, metric in table.quantities.items()},
        "rows": [_row(row, table) for row in table.rows],
        "references": [_row(row, table) for row in table.references],
        "best": {
            name: {"row": best.row, "within_error": list(best.within_error)}
            for name, best in table.best.items()
        },
        "notes": list(table.notes),
    }


def _row(row: Row, table: SweepTable) -> dict[str, Any]:
    values = {
        name: {"mean": value.mean, "spread": value.spread, "error": value.error, "values": list(value.values)}
        for name, value in row.values.items()
        if name in table.quantities
    }
    return {"settings": dict(row.settings), "arm": row.arm, "repetitions": row.repetitions} | values


def as_csv(tables: Mapping[str, SweepTable]) -> str:
    """Returns the tables as CSV, with a heading and a line per row.

    The columns are the stage if there are several, the parameters (empty for an arm that no parameter
    changes), the arm, and four columns per quantity: mean, error (the spread, or else the standard error),
    number of values, and mark (`best` or `within error`).
    """
    first = next(iter(tables.values()))
    names = list(dict.fromkeys(name for table in tables.values() for name in table.quantities))
    heading = [*(["stage"] if len(tables) > 1 else []), *map(option_name, first.parameters), "arm"]
    heading += [f"{name}{suffix}" for name in names for suffix in ("", "_error", "_n", "_mark")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(heading)
    for stage, table in tables.items():
        for number, row in [*enumerate(table.rows), *((None, row) for row in table.references)]:
            settings = [value_text(row.settings[name]) if row.settings else "" for name in table.parameters]
            cells = [*([stage] if len(tables) > 1 else []), *settings, row.arm]
            writer.writerow([*cells, *(cell for name in names for cell in _cells(table, row, number, name))])
    return out.getvalue()


def _cells(table: SweepTable, row: Row, number: int | None, name: str) -> list[Any]:
    value, best = row.values.get(name), table.best.get(name)
    if value is None:
        return ["", "", "", ""]
    mark = ""
    if best is not None and number is not None:
        mark = "best" if number == best.row else "within error" if number in best.within_error else ""
    half = "" if value.half_width is None else repr(value.half_width)
    return [repr(value.mean), half, len(value.values), mark]
