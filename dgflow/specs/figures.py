"""Figures and tables as data: a step's result for readers. The report draws them; this module draws nothing
and does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Pair = tuple[float, float]


@dataclass(frozen=True)
class Metric:
    """A measured quantity of an arm: its column heading, its decimals, and the better direction. If neither
    direction is better, `nearest` names the value to approach.
    """

    heading: str
    decimals: int = 4
    lower_is_better: bool = True
    nearest: str = ""

    @property
    def better(self) -> str:
        """The better direction: `lower`, `higher` or `nearer to ...`."""
        if self.nearest:
            return f"nearer to {self.nearest}"
        return "lower" if self.lower_is_better else "higher"

    def shown(self, value: float) -> str:
        """Formats a value with the metric's decimals; a value that rounds to zero has no sign."""
        return f"{value:z,.{self.decimals}f}"


def directions(metrics: Iterable[Metric]) -> str:
    """The better direction of each metric, for a table's note."""
    headings: dict[str, list[str]] = {}
    for metric in metrics:
        headings.setdefault(metric.better, []).append(metric.heading)
    return "; ".join(f"{', '.join(names)}: {better} is better" for better, names in headings.items())


@dataclass(frozen=True)
class Curve:
    """One curve: its name in the legend, and its points in order of x; `error` is half the length of each
    error bar.

    Curves of one `group`, such as a quantity and its estimate, share a colour.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None
    style: Literal["line", "dashed", "points"] = "line"
    group: str = ""


@dataclass(frozen=True)
class Lines:
    """Curves over one x axis. `mark` is an x to mark, `level` a y to compare with, `front` a captioned set of
    points to circle and connect.
    """

    title: str
    curves: Sequence[Curve]
    x_label: str
    y_label: str = ""
    log_x: bool = False
    log_y: bool = False
    mark: tuple[float, str] | None = None
    level: tuple[float, str] | None = None
    front: tuple[Sequence[Pair], str] | None = None
    note: str = ""


@dataclass(frozen=True)
class HeatMap:
    """A value for each pair (row, column), with its text; `marked` are the cells (row, column) to
    highlight.
    """

    title: str
    x_label: str
    y_label: str
    columns: Sequence[str]
    rows: Sequence[str]
    values: Sequence[Sequence[float | None]]  # values by row; None for a missing value
    texts: Sequence[Sequence[str]]
    marked: Sequence[tuple[int, int]] = ()
    lower_is_better: bool = True
    note: str = ""


@dataclass(frozen=True)
class Cloud:
    """A named set of points in the plane."""

    label: str
    points: Sequence[Pair]


@dataclass(frozen=True)
class PlanePlot:
    """A region of the plane with point clouds, and arrows (start, vector) at one scale.

    `arrow_scale` is the drawn length, in units of the plane, of an arrow of length 1; plots to be compared
    share it. None chooses a scale with which the arrows fill the plot.
    """

    title: str
    x_range: Pair
    y_range: Pair
    clouds: Sequence[Cloud] = ()
    arrows: Sequence[tuple[Pair, Pair]] = ()
    arrow_scale: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column is left-aligned. `marked` are the rows to highlight."""

    title: str
    heading: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: Sequence[int] = ()
    note: str = ""


@dataclass(frozen=True)
class Pictures:
    """Small pictures of one size under `columns`, in rows of (label, pictures). Each picture is a PNG in
    base64; None if missing. `side` is the width in pixels.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str | None]]]
    side: int
    note: str = ""


Figure = Lines | HeatMap | PlanePlot | Table | Pictures
