"""Draws line charts: curves over one x axis with markers and error bars, and optionally an x value to point
out, a y value to compare with, and a front."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape

from dgflow.report.figures.axis import Axis
from dgflow.report.figures.frame import BOTTOM, RIGHT, Area, Box, grid, left_for
from dgflow.report.figures.legend import Entry, legend, tells
from dgflow.report.figures.looks import Look, looks_of
from dgflow.report.figures.svg import (
    NAME_SIZE,
    ROW,
    WIDTH,
    Drawing,
    NothingToDraw,
    drawing,
    inside,
    line,
    name,
    ring,
    text_width,
)
from dgflow.specs.figures import Curve, Lines, Pair

HEIGHT, TOP = 156, 40  # height of the area; minimum space above it
MARGIN = 0.06  # space above and below as a share of the range of y
FEW_POINTS = 16  # maximum number of points of a curve that each get a marker
FEW_CURVES = 2  # with more curves, a curve of many points gets some markers too
MARKERS = 7  # approximate number of markers of such a curve
CLEAR = 3  # minimum distance between the caption of a level and a curve
CAP = 3  # half the length of the line at each end of an error bar

Point = tuple[float, float, float]  # x, y, error


def draw_lines(figure: Lines, colours: Sequence[int] = ()) -> Drawing:
    """Draws the curves; `colours` are the numbers of their looks, by default in order.

    Points that an axis cannot show (not finite, or not positive on a logarithmic axis) are left out. Raises
    NothingToDraw if no point is left.
    """
    curves = [_points(curve, figure) for curve in figure.curves]
    if not any(curves):
        positive = ", positive on logarithmic axes" if figure.log_x or figure.log_y else ""
        found = [point for curve in figure.curves for point in zip(curve.x, curve.y, strict=True)]
        raise NothingToDraw(
            f"expected finite points for the figure {figure.title!r}{positive}, found {found[:4]}"
        )
    looks = looks_of(figure.curves, colours)
    x_axis, y_axis = _axes(figure, [point for curve in curves for point in curve])
    area = Area(left_for(y_axis), WIDTH - RIGHT, 0, HEIGHT)
    x_axis, y_axis = x_axis.placed(area.left, area.right), y_axis.placed(area.bottom, area.top)
    caption = _caption(figure, x_axis, y_axis, area, curves)
    head, top = _head(figure, looks, x_axis, level=caption is None)
    area = Area(area.left, area.right, top, top + HEIGHT)
    y_axis = y_axis.placed(area.bottom, area.top)
    body = grid(area, x_axis, y_axis, figure.x_label)
    if figure.level and y_axis.shows(figure.level[0]):
        y = y_axis.at(figure.level[0])
        body.append(line("level", area.left, y, area.right, y))
    for points, look in zip(curves, looks, strict=True):
        body += _error_bars(points, look, x_axis, y_axis)
    for number, look in enumerate(looks):
        body += _curve(figure, number, curves[number], _positions(curves[number], x_axis, y_axis), look)
    body += _front(figure, x_axis, y_axis)
    if caption is not None:
        body.append(replace(caption, y=caption.y + top).svg("note halo"))
    label = f"{figure.title}: {', '.join(curve.label for curve in figure.curves)} by {figure.x_label}"
    return drawing(WIDTH, area.bottom + BOTTOM, label, [*body, *head])


def _points(curve: Curve, figure: Lines) -> list[Point]:
    """Returns the points that the axes can show. An unknown error is 0."""
    errors = curve.error if curve.error is not None else [0.0] * len(curve.x)
    return [
        (x, y, error if math.isfinite(error) else 0.0)
        for x, y, error in zip(curve.x, curve.y, errors, strict=True)
        if all(map(math.isfinite, (x, y))) and (x > 0 or not figure.log_x) and (y > 0 or not figure.log_y)
    ]


def _axes(figure: Lines, points: Sequence[Point]) -> tuple[Axis, Axis]:
    """Returns the axes of x and y, not yet placed."""
    ends = [y + side * error for _, y, error in points for side in (-1, 1)]
    ends += [figure.level[0]] if figure.level else []
    xs = [x for x, _, _ in points] + ([figure.mark[0]] if figure.mark else [])
    xs = [x for x in xs if x > 0 or not figure.log_x]
    whole = not figure.log_x and all(float(x).is_integer() for x in xs)
    x_axis = Axis.over(xs, log=figure.log_x, whole=whole)
    return (
        x_axis.naming(xs) if figure.log_x else x_axis,
        Axis.over([y for y in ends if y > 0 or not figure.log_y], log=figure.log_y, margin=MARGIN),
    )


def _head(figure: Lines, looks: Sequence[Look], x_axis: Axis, *, level: bool) -> tuple[list[str], float]:
    """Returns the elements above the area (title, legend, label of y, caption of the mark) and the top of the
    area. With `level`, the legend names the level too."""
    logarithmic = " (log)" if figure.log_y else ""
    title = figure.title if figure.y_label else figure.title + logarithmic
    out, y = name(title, WIDTH)
    entries = [Entry(curve.label, look) for curve, look in zip(figure.curves, looks, strict=True)]
    entries = [] if tells(figure.title, [curve.label for curve in figure.curves]) else entries
    entries += [Entry(figure.level[1], "level")] if figure.level and level else []
    entries += [Entry(figure.front[1], "front")] if figure.front else []
    if entries:
        beside = text_width(title, NAME_SIZE, bold=True) if len(out) == 1 else WIDTH
        names, y = legend(entries, WIDTH, beside, y)
        out += names
    above, top = _above(figure, x_axis, y)
    return out + above, top


def _above(figure: Lines, x_axis: Axis, y: float) -> tuple[list[str], float]:
    """Returns the label of y and the caption of the mark, below the baseline `y` and on one line if they fit;
    and the top of the area."""
    label = Box(0, 0, figure.y_label + (" (log)" if figure.log_y else "")) if figure.y_label else None
    if figure.mark is None or not x_axis.shows(figure.mark[0]):
        top = max(TOP, y + (ROW if label else 0) + 12)
        return [replace(label, y=top - 12).svg("note")] if label else [], top
    x, words = x_axis.at(figure.mark[0]), figure.mark[1]
    caption = Box(inside(x, words, 0, WIDTH), 0, words, "middle")
    meet = label is not None and caption.edges[0] < label.edges[1] + 8
    gap = 12 if label else 4  # keeps the label clear of the topmost tick
    top = max(TOP, y + ROW * (2 if meet else 1) + gap)
    out = [replace(caption, y=top - gap).svg("note"), line("mark", x, top - gap + 4, x, top + HEIGHT)]
    if label:
        out.append(replace(label, y=top - gap - (ROW if meet else 0)).svg("note"))
    return out, top


def _error_bars(points: Sequence[Point], look: Look, x_axis: Axis, y_axis: Axis) -> list[str]:
    bars = []
    for x, y, error in points:
        if error > 0:
            low, high = (
                y_axis.at(end) if y_axis.shows(end) else max(y_axis.first, y_axis.last)
                for end in (y - error, y + error)
            )
            at = x_axis.at(x)
            bars.append(
                f"M{at - CAP:g} {low:g}h{2 * CAP}M{at:g} {low:g}V{high:g}M{at - CAP:g} {high:g}h{2 * CAP}"
            )
    return [f'<path class="error c{look.colour}" d="{"".join(bars)}"/>'] if bars else []


def _curve(
    figure: Lines, number: int, points: Sequence[Point], positions: Sequence[Pair], look: Look
) -> list[str]:
    """Draws one curve: its line, and markers that show their values on hover."""
    out = []
    if look.dash is not None and positions:
        out.append(look.line(" ".join(f"{x:g},{y:g}" for x, y in positions)))
    every = 1
    if look.dash is not None and len(points) > FEW_POINTS:
        if len(figure.curves) <= FEW_CURVES:
            return out
        every = -(-len(points) // MARKERS)
    label = figure.curves[number].label
    for (x, y, error), (at_x, at_y) in list(zip(points, positions, strict=True))[number % every :: every]:
        words = f"{label} at {x:.3g}: {y:.4g}" + (f" ± {error:.2g}" if error > 0 else "")
        out.append(look.mark(at_x, at_y, escape(words)))
    return out


def _front(figure: Lines, x_axis: Axis, y_axis: Axis) -> list[str]:
    """Draws rings around the points of the front, and the line through them."""
    points = [] if figure.front is None else figure.front[0]
    places = [(x_axis.at(x), y_axis.at(y)) for x, y in points if x_axis.shows(x) and y_axis.shows(y)]
    if not places:
        return []
    line = " ".join(f"{x:g},{y:g}" for x, y in places)
    return [f'<polyline class="front" points="{line}"/>', *(ring(x, y) for x, y in places)]


def _caption(
    figure: Lines, x_axis: Axis, y_axis: Axis, area: Area, curves: Sequence[Sequence[Point]]
) -> Box | None:
    """Returns the caption of the level, None without a level or without room for the caption.

    The caption is above or below the level's line, at its left or right end, wherever it is farthest from the
    curves.
    """
    if not figure.level or not y_axis.shows(figure.level[0]):
        return None
    words, y = figure.level[1], y_axis.at(figure.level[0])
    boxes = [
        box
        for below in (y - 4, y + 12)
        for box in (Box(area.right - 2, below, words, "end"), Box(area.left + 4, below, words))
    ]
    near = [place for points in curves for place in _along(_positions(points, x_axis, y_axis))]
    near += [(x_axis.at(x), y_axis.at(end)) for points in curves for x, end in _ends(points, y_axis)]
    room = {
        box: min((box.distance(*place) for place in near), default=area.right)
        for box in boxes
        if area.top <= box.edges[2] and box.edges[3] <= area.bottom
    }
    best = max(room, key=lambda box: room[box], default=None)
    return best if best is not None and room[best] >= CLEAR else None


def _ends(points: Sequence[Point], y_axis: Axis) -> list[Pair]:
    """Returns the ends of the error bars that the axis can show."""
    ends = [(x, y + side * error) for x, y, error in points for side in (-1, 1)]
    return [end for end in ends if y_axis.shows(end[1])]


def _positions(points: Sequence[Point], x_axis: Axis, y_axis: Axis) -> list[Pair]:
    return [(x_axis.at(x), y_axis.at(y)) for x, y, _ in points]


def _along(curve: Sequence[Pair]) -> Iterator[Pair]:
    """Yields points on the line through the positions, about two units apart."""
    yield from curve
    for (x1, y1), (x2, y2) in zip(curve, curve[1:], strict=False):
        count = int(math.hypot(x2 - x1, y2 - y1) / 2)
        for step in range(1, count):
            share = step / count
            yield x1 + share * (x2 - x1), y1 + share * (y2 - y1)
