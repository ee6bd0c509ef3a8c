"""Plots a part of the plane with the same scale on both axes: clouds of translucent points, and arrows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from dgflow.report.figures.arrows import SCALE_LENGTH, arrow_scale, arrows_path, round_length
from dgflow.report.figures.axis import Axis
from dgflow.report.figures.frame import RIGHT, Area, grid, left_for
from dgflow.report.figures.legend import tells
from dgflow.report.figures.svg import ROW, WIDTH, Drawing, NothingToDraw, drawing, name, text, text_width
from dgflow.specs.figures import Cloud, Pair, PlanePlot

TALLEST, BOTTOM = 440, 24  # maximum height of the area; margin below it
LAYERS = 12  # paths per cloud; the opacities of overlapping points add up if they are in different paths
SHAPES = (  # shapes of a cloud's points, by the number of the cloud: path data and stroke width
    ("h0", 3.2),
    ("m-1.5 -1.5l3 3m0 -3l-3 3", 1),
    ("m-2 0h4m-2 -2v4", 1),
)
OPACITIES = ((100, 0.85), (500, 0.55), (2_000, 0.4), (math.inf, 0.25))  # (maximum number of points, opacity)
COLOURS = 8
SAMPLE, GAP = 12, 16  # width of a point in the legend; distance between two entries


def draw_plane_plot(figure: PlanePlot) -> Drawing:
    """Draws the plot. Raises NothingToDraw for ranges that are empty or not finite."""
    spans = [high - low for low, high in (figure.x_range, figure.y_range)]
    if not all(math.isfinite(span) and span > 0 for span in spans):
        raise NothingToDraw(
            f"expected ranges from low to high for the figure {figure.title!r}, found {figure.x_range} and "
            f"{figure.y_range}"
        )
    x_axis, y_axis = Axis(*figure.x_range), Axis(*figure.y_range)
    left = left_for(y_axis)
    unit = min((WIDTH - RIGHT - left) / spans[0], TALLEST / spans[1])  # user units per unit of the plane
    body, y = name(figure.title, WIDTH)
    names, y = _legend(figure, unit, y)
    width, height = (round(unit * span, 1) for span in spans)
    area = Area(left, left + width, y + 12, y + 12 + height)
    body += [*names, *grid(area, x_axis.placed(left, area.right), y_axis.placed(area.bottom, area.top), "")]
    place = f'x="{left:g}" y="{area.top:g}" width="{width:g}" height="{height:g}"'
    body.append(f"<svg {place}>")
    body += [_cloud(figure, number, unit) for number in range(len(figure.clouds))]
    if arrows := _arrows(figure, unit):
        body.append(f'<path class="arrow" d="{arrows}"/>')
    body.append(f'</svg><rect class="box" {place}/>')
    return drawing(WIDTH, area.bottom + BOTTOM, _words(figure), body)


def _words(figure: PlanePlot) -> str:
    parts = [f"{len(cloud.points):,} points of {cloud.label}" for cloud in figure.clouds]
    parts += [f"{len(figure.arrows):,} arrows"] if figure.arrows else []
    return f"{figure.title}: {', '.join(parts) or 'nothing'} in the plane"


def _position(figure: PlanePlot, point: Pair, unit: float) -> Pair:
    """Returns the position of a point in the area."""
    return unit * (point[0] - figure.x_range[0]), unit * (figure.y_range[1] - point[1])


def _cloud(figure: PlanePlot, number: int, unit: float) -> str:
    """Draws the points inside the plot, in layers. Points outside the plot are only counted."""
    cloud, (shape, stroke) = figure.clouds[number], SHAPES[number % len(SHAPES)]
    (left, right), (low, high) = figure.x_range, figure.y_range
    points = [point for point in cloud.points if left <= point[0] <= right and low <= point[1] <= high]
    counted = (
        f"{len(points):,} points"
        if len(points) == len(cloud.points)
        else (f"{len(points):,} of {len(cloud.points):,} points are in view")
    )
    out = [
        f'<g class="cloud c{number % COLOURS}" stroke-width="{stroke}" stroke-opacity="{_opacity(cloud)}">',
        f"<title>{escape(f'{cloud.label}: {counted}')}</title>",
    ]
    for layer in range(min(LAYERS, len(points))):
        places = (_position(figure, point, unit) for point in points[layer::LAYERS])
        out.append(f'<path d="{"".join(f"M{x:.1f} {y:.1f}{shape}" for x, y in places)}"/>')
    return "".join([*out, "</g>"])


def _opacity(cloud: Cloud) -> float:
    return next(opacity for most, opacity in OPACITIES if len(cloud.points) <= most)


def _arrows(figure: PlanePlot, unit: float) -> str:
    if not figure.arrows:
        return ""
    scale = unit * arrow_scale(figure)
    return arrows_path(
        [(_position(figure, start, unit), (scale * by[0], -scale * by[1])) for start, by in figure.arrows]
    )


def _legend(figure: PlanePlot, unit: float, y: float) -> tuple[list[str], float]:
    """Returns the elements of the legend (the clouds, and an arrow with its length) and the baseline of its
    last line."""
    samples = []
    named = figure.arrows or not tells(figure.title, [cloud.label for cloud in figure.clouds])
    for number, cloud in enumerate(figure.clouds) if named else ():
        shape, stroke = SHAPES[number % len(SHAPES)]
        sample = f'class="cloud c{number % COLOURS}" stroke-width="{stroke * 1.4:.1f}" d="M5 0{shape}"'
        samples.append((sample, SAMPLE, cloud.label))
    if figure.arrows:
        scale = unit * arrow_scale(figure)
        length = round_length(SCALE_LENGTH / scale)
        path = arrows_path([((0, 0), (scale * length, 0))])
        samples.append((f'class="arrow" d="{path}"', scale * length + 6, f"length {length:g}"))
    return _in_lines(samples, y)


def _in_lines(samples: Sequence[tuple[str, float, str]], y: float) -> tuple[list[str], float]:
    """Returns the samples, given as (path, width, label), on as many lines as they need, and the baseline of
    the last line."""
    out, x, y = [], 0.0, y + ROW if samples else y
    for path, width, words in samples:
        end = x + width + text_width(words)
        if x > 0 and end > WIDTH:
            x, y = 0.0, y + ROW
        out.append(f'<path transform="translate({x:.1f} {y - 4:g})" {path}/>')
        out.append(text("note", round(x + width, 1), y, words))
        x += width + text_width(words) + GAP
    return out, y
