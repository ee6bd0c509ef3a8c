"""Draws dot plots: one row per value on a common axis, each with its interval. The label and the number of a
row are above its dot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from dgflow.report.figures.axis import Axis
from dgflow.report.figures.frame import GAP, RIGHT, Box
from dgflow.report.figures.svg import (
    ROW,
    WIDTH,
    Drawing,
    NothingToDraw,
    drawing,
    inside,
    line,
    name,
    text,
    text_width,
    wrapped,
)

LEFT, BOTTOM = 12, 40  # margins of the area
PITCH = 36  # vertical distance between rows
MARGIN = 0.06  # space on both sides as a share of the range of values
CAP = 4  # half the length of the line at each end of an interval
RADIUS, SMALL = 4.5, 2  # radius of a row's dot and of the dots of its single values


@dataclass(frozen=True)
class Dot:
    """A row: its value, the value as text (`words`), the half-width of its interval, and the single values
    behind it. `colour` is the number of a colour of the style sheet."""

    label: str
    value: float
    words: str
    half: float | None = None
    singles: Sequence[float] = ()
    colour: int = 0


@dataclass(frozen=True)
class Dots:
    """Rows over one axis. `level` is a value to compare with, and its caption."""

    title: str
    rows: Sequence[Dot]
    x_label: str
    level: tuple[float, str] | None = None


def draw_dots(figure: Dots) -> Drawing:
    """Draws the rows from top to bottom. Raises NothingToDraw if no value is finite."""
    rows = [row for row in figure.rows if math.isfinite(row.value)]
    if not rows:
        raise NothingToDraw(f"expected finite values for the figure {figure.title!r}, found none")
    axis = Axis.over(_extent(rows, figure), margin=MARGIN).placed(LEFT, WIDTH - RIGHT)
    head, y = name(figure.title, WIDTH) if figure.title else ([], 0.0)
    top = y + (24 if figure.level else 10)
    places, bottom = [], top
    for row in rows:
        places.append(_Place(row, bottom))
        bottom = places[-1].bottom
    bottom, body = bottom + 6, list(head)
    end = -math.inf
    for value, hyphened in axis.ticks():
        x, words = axis.at(value), hyphened.replace("-", "−")
        body.append(line("grid", x, top, x, bottom))
        middle = inside(x, words, 0, WIDTH)
        if middle - text_width(words) / 2 >= end + GAP / 2:
            body.append(text("tick", middle, bottom + 15, words, "middle"))
            end = middle + text_width(words) / 2
    body.append(line("axis", LEFT, bottom, WIDTH - RIGHT, bottom))
    body.append(text("note", WIDTH / 2, bottom + 33, figure.x_label, "middle"))
    if figure.level:
        x, words = axis.at(figure.level[0]), figure.level[1]
        for place in places:  # only at the height of the dots, so that no line crosses the numbers
            body.append(line("zero", x, place.bottom - 17, x, place.bottom))
        body.append(Box(inside(x, words, 0, WIDTH), top - 8, words, "middle").svg("note"))
    for place in places:
        body += _row(place, axis)
    label = f"{figure.title}: {'; '.join(f'{row.label} {row.words}' for row in rows)}"
    return drawing(WIDTH, bottom + BOTTOM, label.removeprefix(": "), body)


def _extent(rows: Sequence[Dot], figure: Dots) -> list[float]:
    values = [row.value + side * (row.half or 0.0) for row in rows for side in (-1, 1)]
    values += [each for row in rows for each in row.singles if math.isfinite(each)]
    return values + ([figure.level[0]] if figure.level else [])


class _Place:
    """The place of a row from `top` on: the lines of its label, and its number at the end of the last line,
    or on a line of its own if both do not fit."""

    def __init__(self, row: Dot, top: float) -> None:
        room = WIDTH - LEFT - RIGHT
        self.row, self.top = row, top
        self.lines = [_cut(words, room) for words in wrapped(row.label, room)] or [""]
        if text_width(self.lines[-1]) + GAP + text_width(row.words, bold=True) > room:
            self.lines.append("")
        self.last = top + 14 + ROW * (len(self.lines) - 1)  # baseline of the number
        self.bottom = self.last + PITCH - 14


def _row(place: _Place, axis: Axis) -> list[str]:
    row, y = place.row, place.last + 13
    x = axis.at(row.value)
    out = [
        text("label halo", LEFT, place.top + 14 + ROW * number, words)
        for number, words in enumerate(place.lines)
        if words
    ]
    out.append(text("label value halo", WIDTH - RIGHT, place.last, row.words, "end"))
    if row.half:
        low, high = axis.at(row.value - row.half), axis.at(row.value + row.half)
        caps = "".join(f"M{end:g} {y - CAP:g}v{2 * CAP}" for end in (low, high))
        out.append(f'<path class="interval c{row.colour}" d="M{low:g} {y:g}H{high:g}{caps}"/>')
    out += [
        f'<circle class="single c{row.colour}" cx="{axis.at(each):g}" cy="{y:g}" r="{SMALL}"/>'
        for each in row.singles
        if math.isfinite(each)
    ]
    title = f"<title>{escape(f'{row.label}: {row.words}')}</title>"
    out.append(f'<circle class="dot c{row.colour}" cx="{x:g}" cy="{y:g}" r="{RADIUS}">{title}</circle>')
    return out


def _cut(words: str, room: float) -> str:
    if text_width(words) <= room:
        return words
    while words and text_width(f"{words}…") > room:
        words = words[:-1]
    return f"{words}…"
