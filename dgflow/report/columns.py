"""Tables that fit the terminal: labels wrap between words, and columns that do not fit move below their
row."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dgflow.runtime.terminal import printable

GAP = "  "
LABEL = 20  # minimum width of the label column


@dataclass(frozen=True)
class Column:
    """A column of a table. If the table is too wide, columns move below their rows: first those without an
    entry, then the others in the order of `moves`. A column whose `moves` is None never moves."""

    heading: str
    left: bool = False
    moves: int | None = None


def fitted(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], label: int, width: int
) -> Iterator[list[str]]:
    """Yields the lines of the heading, then those of each row. No line has more than `width` characters; the
    text of column `label` wraps."""
    cells = [[printable(cell) for cell in row] for row in (tuple(each.heading for each in columns), *rows)]
    widths = [max(len(row[number]) for row in cells) for number in range(len(columns))]
    kept = list(range(len(columns)))

    def room() -> int:
        return width - sum(widths[number] + len(GAP) for number in kept if number != label)

    turns = sorted(
        (any(row[number] for row in cells[1:]), each.moves, number)
        for number, each in enumerate(columns)
        if each.moves is not None
    )
    while turns and room() < min(LABEL, widths[label]):
        kept.remove(turns.pop(0)[-1])
    widths[label] = max(min(widths[label], room()), min(LABEL, widths[label]))
    moved = [number for number in range(len(columns)) if number not in kept]
    indent = " " * (widths[0] + len(GAP))
    for position, row in enumerate(cells):
        wrapped = textwrap.wrap(row[label], widths[label]) or [""]
        lines = []
        for number, part in enumerate(wrapped):
            values = [part if column == label else row[column] if number == 0 else "" for column in kept]
            lines.append(
                _line(values, [columns[column] for column in kept], [widths[column] for column in kept])
            )
        below = ", ".join(f"{columns[column].heading} {row[column]}" for column in moved if row[column])
        if position and below:
            lines += textwrap.wrap(below, width, initial_indent=indent, subsequent_indent=indent)
        yield lines


def _line(values: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    padded = (
        value.ljust(width) if column.left else value.rjust(width)
        for value, column, width in zip(values, columns, widths, strict=True)
    )
    return GAP.join(padded).rstrip()
