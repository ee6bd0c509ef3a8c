"""Figures and tables as data: the content of a step's result for people. The report draws them; nothing here
draws, and nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Pair = tuple[float, float]


@dataclass(frozen=True)
class Metric:
    """A measured quantity of an arm: its heading in a table, its decimals, and which direction is better;
    `nearest` names the value to come near to, where neither direction is."""

    heading: str
    decimals: int = 4
    lower_is_better: bool = True
    nearest: str = ""


def directions(metrics: Iterable[Metric]) -> str:
    """Which values of the metrics are better, for the note of a table."""
    headings: dict[str, list[str]] = {}
    for metric in metrics:
        value = "lower" if metric.lower_is_better else "higher"
        if metric.nearest:
            value = f"nearer to {metric.nearest}"
        headings.setdefault(value, []).append(metric.heading)
    return "; ".join(f"{', '.join(names)}: {value} is better" for value, names in headings.items())


@dataclass(frozen=True)
class Curve:
    """One curve: its name in the legend, and its points in order of x; `error` is half of each error bar.

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
    """Curves over one x axis; `mark` is an x to point out, `level` a y to compare with, `front` points to
    ring and join, captioned."""

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
    """A value for each pair (row, column), with its text; `marked` are the cells (row, column) to point
    out."""

    title: str
    x_label: str
    y_label: str
    columns: Sequence[str]
    rows: Sequence[str]
    values: Sequence[Sequence[float | None]]  # by row; None where there is no value
    texts: Sequence[Sequence[str]]
    marked: Sequence[tuple[int, int]] = ()
    lower_is_better: bool = True
    note: str = ""


@dataclass(frozen=True)
class Cloud:
    """Points in the plane under one name."""

    label: str
    points: Sequence[Pair]


@dataclass(frozen=True)
class PlanePlot:
    """A part of the plane, with clouds of points and arrows (from, by) drawn to one scale.

    `arrow_scale` is the length in the plane at which an arrow of length 1 is drawn: plots that are to be
    compared share it. None picks one by which the arrows fill the plot.
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
    """Cells as text; the first column is set to the left. `marked` are the rows to point out."""

    title: str
    heading: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: Sequence[int] = ()
    note: str = ""


@dataclass(frozen=True)
class Pictures:
    """Small pictures of one size under `columns`, in rows of (label, pictures): each a PNG file in base64,
    None for one that is missing. `side` is their width in pixels."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str | None]]]
    side: int
    note: str = ""


Figure = Lines | HeatMap | PlanePlot | Table | Pictures
