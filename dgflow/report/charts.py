"""The line charts of trainings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dgflow.report.figures.lines import draw_lines
from dgflow.specs.figures import Curve, Lines

LOG_RATIO = 20.0  # a y axis whose positive values span more than this is logarithmic

Point = tuple[float, float]
Data = Literal["training", "held-out"]
COLOURS: dict[Data, int] = {"held-out": 0, "training": 1}  # numbers of looks


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

    Raises ValueError where there is no point to draw.
    """
    values = [y for one in series for _, y in one.points] + ([level[0]] if level else [])
    figure = Lines(
        title=name,
        curves=[Curve(one.label, [x for x, _ in one.points], [y for _, y in one.points]) for one in series],
        x_label=x_label,
        log_x=log_x,
        log_y=bool(values) and min(values) > 0 and max(values) > LOG_RATIO * min(values),
        mark=mark,
        level=level,
    )
    return draw_lines(figure, [COLOURS[one.data] for one in series]).element
