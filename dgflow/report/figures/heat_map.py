"""Draws heat maps: a value for each pair of row and column, as text on a shade that is strongest for the
best.

A shade is an opacity of one colour of the style sheet. The opacity is limited so that text on it stays
legible. The scale is therefore sequential in the light scheme, in the dark scheme and without colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeGuard

from dgflow.report.figures.svg import WIDTH, Drawing, NothingToDraw, drawing, inside, name, text, text_width
from dgflow.specs.figures import HeatMap

FAINT, STRONG = 0.05, 0.6  # opacity of the worst cell and of the best one
PAD = 14  # space beside the text of a cell
LEAST, MOST = 44, 110  # minimum width of a cell; maximum width unless its text needs more
LINE = 14  # height of a line of text in a cell
STEPS = 5  # number of shades in the scale below the map
NOTHING = "–"  # text of a cell without a finite value


@dataclass(frozen=True)
class _Scale:
    """The scale of shades, given by the worst and the best value with their texts."""

    worst: tuple[float, str]
    best: tuple[float, str]

    def opacity(self, value: float) -> float:
        span = self.best[0] - self.worst[0]
        return FAINT + (STRONG - FAINT) * ((value - self.worst[0]) / span if span else 0.5)


@dataclass(frozen=True)
class _Cells:
    """The texts of all cells by row, each as one line or split before ±, and the size of a cell."""

    words: list[list[list[str]]]
    width: float
    height: float


def draw_heat_map(figure: HeatMap) -> Drawing:
    """Draws the map. Raises NothingToDraw if no value is finite."""
    scale = _scale(figure)
    left = round(max(map(text_width, figure.rows))) + 8
    cells = _cells(figure, WIDTH - left - 2)
    width = max(WIDTH, math.ceil(left + cells.width * len(figure.columns) + 2))
    body, y = name(figure.title, WIDTH)
    body.append(text("note", 0, y + 18, figure.y_label))
    top = y + 26
    for row, words in enumerate(figure.rows):
        y = top + cells.height * row
        body.append(text("tick", left - 8, y + cells.height / 2 + 4, words, "end"))
        for column in range(len(figure.columns)):
            body.append(_cell(figure, (row, column), cells, (left + cells.width * column, y), scale))
    bottom = top + cells.height * len(figure.rows)
    for column, words in enumerate(figure.columns):
        body.append(text("tick", round(left + cells.width * (column + 0.5), 1), bottom + 17, words, "middle"))
    middle = inside(left + cells.width * len(figure.columns) / 2, figure.x_label, 0, width)
    body.append(text("note", middle, bottom + 34, figure.x_label, "middle"))
    body += _legend(scale, bottom + 62, bool(figure.marked))
    label = f"{figure.title}: a value for each {figure.y_label} (rows) and {figure.x_label} (columns)"
    return drawing(width, bottom + 68, label, body)


def _is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _scale(figure: HeatMap) -> _Scale:
    pairs = [
        (value, words)
        for row_values, row_texts in zip(figure.values, figure.texts, strict=True)
        for value, words in zip(row_values, row_texts, strict=True)
        if _is_finite(value)
    ]
    if not pairs:
        raise NothingToDraw(f"expected a finite value for the figure {figure.title!r}, found none")
    least, most = min(pairs), max(pairs)
    return _Scale(most, least) if figure.lower_is_better else _Scale(least, most)


def _cells(figure: HeatMap, room: float) -> _Cells:
    """Returns the cells. Their texts are split if they would not fit into the width `room` otherwise."""
    words = [
        [[text if _is_finite(value) else NOTHING] for text, value in zip(texts, values, strict=True)]
        for texts, values in zip(figure.texts, figure.values, strict=True)
    ]
    share = room / len(figure.columns)
    if _widest(words) + PAD > share:
        words = [[cell[0].replace(" ± ", "\n± ").split("\n") for cell in row] for row in words]
    needed = max(_widest(words), *map(text_width, figure.columns)) + PAD
    lines = max(len(cell) for row in words for cell in row)
    return _Cells(words, math.floor(max(needed, LEAST, min(share, MOST))), LINE * lines + 16)


def _widest(words: Sequence[Sequence[Sequence[str]]]) -> float:
    return max(text_width(line, bold=True) for row in words for cell in row for line in cell)


def _cell(
    figure: HeatMap, place: tuple[int, int], cells: _Cells, corner: tuple[float, float], scale: _Scale
) -> str:
    (row, column), (left, top) = place, corner
    value, words = figure.values[row][column], cells.words[row][column]
    marked = " marked" if place in {tuple(each) for each in figure.marked} else ""
    where = f"{figure.y_label} {figure.rows[row]}, {figure.x_label} {figure.columns[column]}"
    title = f"{where}: {' '.join(words)}{', marked' if marked else ''}"
    shade = f' fill-opacity="{scale.opacity(value):.2f}"' if _is_finite(value) else ""
    out = [
        f'<g class="cell{marked}"><title>{escape(title)}</title>',
        f'<rect class="{"shade" if shade else "nothing"}"{shade} x="{left + 2:g}" y="{top + 2:g}" '
        f'width="{cells.width - 4:g}" height="{cells.height - 4:g}"/>',
    ]
    first = top + cells.height / 2 + 4 - LINE * (len(words) - 1) / 2
    for number, line in enumerate(words):
        out.append(text("value", round(left + cells.width / 2, 1), first + LINE * number, line, "middle"))
    return "".join([*out, "</g>"])


def _legend(scale: _Scale, y: float, has_marked: bool) -> list[str]:
    """Returns the elements of the legend: the shades from worst to best, and the frame of marked cells."""
    worst, best = (words.split(" ± ")[0] for _, words in (scale.worst, scale.best))
    out, x = [text("note", 0, y, worst)], text_width(worst) + 6
    for step in range(STEPS):
        share = FAINT + (STRONG - FAINT) * step / (STEPS - 1)
        place = f'x="{x + 16 * step:.1f}" y="{y - 10:g}" width="16" height="12"'
        out.append(f'<rect class="shade" fill-opacity="{share:.2f}" {place}/>')
    x += 16 * STEPS + 6
    out.append(text("note", round(x, 1), y, f"{best}, the best"))
    if has_marked:
        x += text_width(f"{best}, the best") + 18
        frame = f'<rect x="{x:.1f}" y="{y - 10:g}" width="16" height="12"/>'
        out += [f'<g class="cell marked">{frame}</g>', text("note", round(x + 22, 1), y, "marked")]
    return out
