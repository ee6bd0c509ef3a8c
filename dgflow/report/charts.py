"""Line charts as inline SVG, coloured by the page's style sheet for its light and dark schemes.

The same numbers give the same text. Names and values are there for screen readers; scripts, fonts and
addresses are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 380, 236  # user units; shown at about that many pixels, so that text keeps its size
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 40, 40
LOG_RATIO = 20.0  # a y axis whose positive values span more than this is logarithmic
FEW_POINTS = 16  # up to here each point gets a dot

Point = tuple[float, float]
Data = Literal["training", "held-out"]


@dataclass(frozen=True)
class Series:
    """One line: its name in the legend, its points in order of x, and its data, which sets the colour."""

    label: str
    points: Sequence[Point]
    data: Data = "held-out"


def line_chart(
    name: str,
    series: Sequence[Series],
    *,
    x_label: str,
    log_x: bool = False,
    mark: tuple[float, str] | None = None,
    level: tuple[float, str] | None = None,
) -> str:
    """One chart as an `<svg>` element; `mark` is an x to point out and `level` a y to compare with,
    captioned.

    Raises ValueError where there is no point to draw, or one that its axis cannot show.
    """
    points = [point for one in series for point in one.points]
    values = [y for _, y in points] + ([level[0]] if level else [])
    finite = all(math.isfinite(value) for point in points for value in point)
    if not points or not finite or (log_x and min(x for x, _ in points) <= 0):
        raise ValueError(
            f"expected finite points for the chart {name!r}, positive in x on a logarithmic axis, found "
            f"{points[:4]}"
        )
    x_axis = _Axis.over([x for x, _ in points], LEFT, WIDTH - RIGHT, log=log_x, whole=not log_x)
    y_axis = _Axis.over(
        values,
        HEIGHT - BOTTOM,
        TOP,
        log=min(values) > 0 and max(values) > LOG_RATIO * min(values),
        margin=0.06,
    )
    label = escape(f"{name}: {', '.join(one.label for one in series)} by {x_label}")
    out = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">',
        *_grid(x_axis, y_axis, x_label),
    ]
    if level:
        y = y_axis.at(level[0])
        out.append(f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        # The caption stands at the end where the lines are farther from the level.
        left, right = (
            min(abs(one.points[end][1] - level[0]) for one in series if one.points) for end in (0, -1)
        )
        x, anchor = (LEFT + 4, "start") if left > right else (WIDTH - RIGHT - 2, "end")
        out.append(
            f'<text class="note" x="{x}" y="{y - 4:g}" text-anchor="{anchor}">{escape(level[1])}</text>'
        )
    if mark:
        x = x_axis.at(mark[0])
        inside = min(max(x, LEFT + 24), WIDTH - RIGHT - 24)
        out.append(f'<line class="mark" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        out.append(
            f'<text class="note" x="{inside:g}" y="{TOP - 4}" text-anchor="middle">{escape(mark[1])}</text>'
        )
    for one in series:
        out += _line(one, x_axis, y_axis)
    return "".join([*out, *_legend(series, name, y_axis.log), "</svg>"])


def _line(one: Series, x_axis: _Axis, y_axis: _Axis) -> list[str]:
    path = " ".join(f"{x_axis.at(x):g},{y_axis.at(y):g}" for x, y in one.points)
    out = [f'<polyline class="line {one.data}" points="{path}"/>']
    if len(one.points) <= FEW_POINTS:
        for x, y in one.points:
            words = f"<title>{escape(one.label)} at {x:.3g}: {y:.4g}</title>"
            out.append(
                f'<circle class="{one.data}" cx="{x_axis.at(x):g}" cy="{y_axis.at(y):g}" '
                f'r="2.5">{words}</circle>'
            )
    return out


def _legend(series: Sequence[Series], name: str, log: bool) -> list[str]:
    out = [f'<text class="name" x="{LEFT}" y="14">{escape(name)}{" (log)" if log else ""}</text>']
    x = WIDTH - RIGHT
    for one in reversed(series) if len(series) > 1 else []:
        out.append(f'<text class="note" x="{x}" y="14" text-anchor="end">{escape(one.label)}</text>')
        x -= round(5.6 * len(one.label)) + 6
        out.append(f'<line class="line {one.data}" x1="{x - 18}" x2="{x}" y1="10" y2="10"/>')
        x -= 32
    return out


def _grid(x_axis: _Axis, y_axis: _Axis, x_label: str) -> list[str]:
    out = []
    for value, text in y_axis.ticks():
        y = y_axis.at(value)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        out.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:g}" text-anchor="end">{text}</text>')
    for value, text in x_axis.ticks():
        x = x_axis.at(value)
        out.append(
            f'<line class="axis" x1="{x}" x2="{x}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}"/>'
        )
        out.append(
            f'<text class="tick" x="{x}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{text}</text>'
        )
    out.append(
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>'
    )
    out.append(
        f'<text class="note" x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 6}" '
        f'text-anchor="middle">{escape(x_label)}</text>'
    )
    return out


@dataclass(frozen=True)
class _Axis:
    """Values from `low` to `high` over the user units from `first` to `last`."""

    low: float
    high: float
    first: float
    last: float
    log: bool
    whole: bool  # ticks at whole numbers only

    @classmethod
    def over(
        cls,
        values: Sequence[float],
        first: float,
        last: float,
        *,
        log: bool,
        whole: bool = False,
        margin: float = 0.0,
    ) -> _Axis:
        low, high = (math.log10(min(values)), math.log10(max(values))) if log else (min(values), max(values))
        room = margin * (high - low) or (0.0 if high > low else max(0.5 * whole, 0.1 * abs(low), 1e-3))
        return cls(low - room, high + room, first, last, log, whole)

    def at(self, value: float) -> float:
        """The position of a value, to a tenth of a unit."""
        share = ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)
        return round(self.first + share * (self.last - self.first), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """About five values that are easy to read, with their text."""
        if self.log:
            decades = range(math.floor(self.low), math.ceil(self.high) + 1)
            for factors in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 4, 5, 6, 7, 8, 9)):
                values = [factor * 10.0**decade for decade in decades for factor in factors]
                low, high = self.low - 1e-9, self.high + 1e-9
                inside = [value for value in values if low <= math.log10(value) <= high]
                if len(inside) >= 3:
                    break
            return [(value, f"{value:.6g}") for value in inside]
        rough = (self.high - self.low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        step = max(step, 1.0) if self.whole else step
        numbers = range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
        return [(number * step, f"{round(number * step, 12):g}") for number in numbers]
