"""Formats numbers, times, sizes, lists and columns as text, alike in the terminal and on the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dgflow.engine.plan import StepPlan
from dgflow.metrics.protocols import DECIMALS, HEADINGS
from dgflow.runtime.durations import duration as duration
from dgflow.runtime.terminal import UNLIMITED, printable, terminal_width

LABEL_WIDTH = 58  # maximum characters of a label in a table
LABEL_HEAD = 28  # characters kept of the beginning of a shortened label
METRICS = {name: (heading, DECIMALS[name]) for name, heading in HEADINGS.items()}  # heading and decimals


def number(metric: str, value: float) -> str:
    """Formats a metric's value with its usual decimals."""
    return f"{value:z,.{METRICS[metric][1]}f}"


def with_spread(values: Mapping[str, Any], decimals: int) -> str:
    """Formats a value such as `29.49 ± 0.41`. The number after ± is the spread over seeds, or else the
    standard error of a single seed; it is left out if neither is known. A value that rounds to zero has no
    sign."""
    spread = values["spread"] if values["spread"] is not None else own_error(values)
    numbers = [values["mean"], *([] if spread is None else [spread])]
    return " ± ".join(f"{each:z,.{decimals}f}" for each in numbers)


def own_error(values: Mapping[str, Any]) -> float | None:
    """Returns the standard error of a single seed's value, estimated from its samples. None for several
    seeds, and if the error is unknown."""
    errors = values.get("errors", [])
    return errors[0] if len(errors) == 1 else None


def size(count: float) -> str:
    """Formats bytes in powers of 1000: `812 B`, `4.2 MB`."""
    for power, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= 0.9995 * power:
            return f"{count / power:.3g} {unit}" if count < 999.5 * power else f"{count / power:,.0f} {unit}"
    return f"{count:,.0f} B"


def parts(count: int, unit: str) -> str:
    """Formats a number of parts: `1 shard`, `12 epochs`, `1 result`."""
    return f"{count:,} {unit.removesuffix('s')}{'' if count == 1 else 's'}"


def labels(steps: Iterable[tuple[str, str]]) -> list[str]:
    """Returns the titles of steps given as (title, name). Equal titles get the beginning of the step's
    fingerprint."""
    pairs = list(steps)
    times = Counter(title for title, _ in pairs)
    return [
        title if times[title] == 1 else f"{title} ({name.rpartition('-')[2][:6]})" for title, name in pairs
    ]


def labelled(plans: Sequence[StepPlan]) -> Iterator[tuple[str, StepPlan]]:
    """Yields each step's label and plan."""
    return zip(labels((each.step.title, each.step.name) for each in plans), plans, strict=True)


def row_labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the labels of rows with a `title` and a `name`, printable and shortened."""
    return [shortened(printable(label)) for label in labels((row["title"], row["name"]) for row in rows)]


def shortened(label: str) -> str:
    """Shortens a long label by its middle, since the ends are more distinctive."""
    if len(label) <= LABEL_WIDTH:
        return label
    return f"{label[:LABEL_HEAD]}…{label[LABEL_HEAD + 1 - LABEL_WIDTH :]}"


def listed(names: Sequence[str]) -> str:
    """Formats a list: `a, b and c`."""
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])


def evenly(keys: Sequence[str], count: int) -> list[str]:
    """Returns at most `count` of the keys, evenly spaced."""
    count = min(count, len(keys))
    return [keys[position * len(keys) // count] for position in range(count)]


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Returns the rows as lines with columns of equal width, right-aligned except the columns in `left`."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def in_blocks(rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Returns the lines of a table with a rule below its heading, of at most `width` characters, by default
    those of the terminal. Columns that do not fit follow in further blocks, which repeat the first column."""
    width = width or terminal_width(UNLIMITED)
    first, *others = (list(column) for column in zip(*rows, strict=True))
    label = max(map(len, first))
    blocks: list[list[list[str]]] = []
    used = 0
    for column in others:
        taken = 2 + max(map(len, column))
        if not blocks or used + taken > width:
            blocks, used = [*blocks, [first]], label
        blocks[-1].append(column)
        used += taken
    tables = [ruled(aligned(list(zip(*block, strict=True)))) for block in blocks or [[first]]]
    return [line for number, table in enumerate(tables) for line in ([""] if number else []) + table]


def markdown_table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table in Markdown. Line breaks in cells become spaces, and `|` is escaped."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(map(_markdown_cell, line))} |" for line in lines)


def _markdown_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def with_details(lines: Sequence[str], details: Iterable[Sequence[str]]) -> list[str]:
    """Returns a table's lines, from the heading to the total, with lines of details below each row."""
    body = [line for row, below in zip(lines[1:-1], details, strict=True) for line in (row, *below)]
    return [lines[0], *body, lines[-1]]


def ruled(lines: Sequence[str]) -> list[str]:
    """Returns a table's lines with a rule below the heading."""
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
