"""The report's figures in Matplotlib, from the same data. Needs matplotlib (`pip install "dgflow[python]"`),
imported only by these functions.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dgflow.extras import require
from dgflow.report.figures.arrows import arrow_scale
from dgflow.report.figures.heat_map import NOTHING
from dgflow.report.figures.table import starred
from dgflow.specs.figures import Figure, HeatMap, Lines, Pictures, PlanePlot, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Plot

PER_ROW = 3  # axes side by side
WIDTH, HEIGHT = 4.8, 3.4  # inches per axes
MARKED = "tab:red"


def plot(figures: Sequence[Figure]) -> Plot:
    """Draw all figures on one Matplotlib figure, for a notebook or `savefig`. It is not managed by pyplot, so
    it need not be closed.

    Raises ValueError if matplotlib is missing.
    """
    require("matplotlib", "a figure")
    from matplotlib.figure import Figure as Plot

    columns = min(PER_ROW, len(figures))
    rows = math.ceil(len(figures) / columns)
    sheet = Plot(figsize=(WIDTH * columns, HEIGHT * rows), layout="constrained")
    all_axes = list(sheet.subplots(rows, columns, squeeze=False).flat)
    for axes, figure in zip(all_axes, figures, strict=False):
        draw(figure, axes)
    for axes in all_axes[len(figures) :]:
        axes.set_axis_off()
    sheet._repr_png_ = lambda: png(sheet)  # type: ignore[attr-defined]  # IPython asks for it
    return sheet


def png(sheet: Plot) -> bytes:
    """Encode the figure as a PNG file."""
    out = io.BytesIO()
    sheet.savefig(out, format="png", dpi=80)
    return out.getvalue()


def draw(figure: Figure, axes: Axes) -> None:
    """Draw one figure into the given axes."""
    axes.set_title(figure.title, fontsize="medium", wrap=True)
    if isinstance(figure, Lines):
        _lines(figure, axes)
    elif isinstance(figure, HeatMap):
        _heat_map(figure, axes)
    elif isinstance(figure, PlanePlot):
        _plane(figure, axes)
    elif isinstance(figure, Table):
        _table(figure, axes)
    else:
        _pictures(figure, axes)


def _lines(figure: Lines, axes: Axes) -> None:
    groups = list(dict.fromkeys(curve.group or number for number, curve in enumerate(figure.curves)))
    for number, curve in enumerate(figure.curves):
        style: dict[str, Any] = {
            "color": f"C{groups.index(curve.group or number) % 10}",
            "label": curve.label,
        }
        style |= {"linestyle": {"line": "-", "dashed": "--", "points": "none"}[curve.style]}
        style |= {"marker": "o", "markersize": 3} if curve.style == "points" or len(curve.x) <= 16 else {}
        axes.errorbar(list(curve.x), list(curve.y), curve.error, capsize=2, **style)
    axes.set(
        xlabel=figure.x_label,
        ylabel=figure.y_label,
        xscale="log" if figure.log_x else "linear",
        yscale="log" if figure.log_y else "linear",
    )
    if figure.level is not None:
        axes.axhline(figure.level[0], color="grey", linestyle=":", label=figure.level[1])
    if figure.mark is not None:
        axes.axvline(figure.mark[0], color="grey", linewidth=0.8, label=figure.mark[1])
    if figure.front is not None:
        x, y = zip(*figure.front[0], strict=True) if figure.front[0] else ((), ())
        axes.plot(x, y, "-o", color="grey", markerfacecolor="none", markersize=9, label=figure.front[1])
    axes.legend(fontsize="small")


def _heat_map(figure: HeatMap, axes: Axes) -> None:
    values = np.array([[np.nan if each is None else each for each in row] for row in figure.values], float)
    axes.imshow(values, cmap="Blues_r" if figure.lower_is_better else "Blues", aspect="auto", alpha=0.6)
    for row, texts in enumerate(figure.texts):
        for column, text in enumerate(texts):
            words = text if math.isfinite(values[row, column]) else NOTHING
            axes.text(column, row, words, ha="center", va="center", fontsize="small")
    for row, column in figure.marked:
        corner = (column - 0.47, row - 0.47)
        axes.add_patch(_rectangle(corner))
    axes.set(xlabel=figure.x_label, ylabel=figure.y_label)
    axes.set_xticks(range(len(figure.columns)), figure.columns)
    axes.set_yticks(range(len(figure.rows)), figure.rows)


def _rectangle(corner: tuple[float, float]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 0.94, 0.94, fill=False, edgecolor=MARKED, linewidth=1.5)


def _plane(figure: PlanePlot, axes: Axes) -> None:
    for number, cloud in enumerate(figure.clouds):
        points = np.reshape(np.array(cloud.points, float), (-1, 2))
        axes.scatter(*points.T, s=3, alpha=0.4, color=f"C{number % 10}", label=cloud.label)
    if figure.arrows:
        starts, by = (np.array(each, float).T for each in zip(*figure.arrows, strict=True))
        scale = 1 / arrow_scale(figure)
        axes.quiver(*starts, *by, angles="xy", scale_units="xy", scale=scale, width=0.003)
    axes.set(xlim=figure.x_range, ylim=figure.y_range, aspect="equal")
    if figure.clouds:
        axes.legend(fontsize="small")


def _table(figure: Table, axes: Axes) -> None:
    heading, *rows = starred(figure)
    axes.set_axis_off()
    if rows:
        cells = axes.table(rows, colLabels=heading, loc="center", cellLoc="right", edges="horizontal")
        cells.auto_set_font_size(False)
        cells.set_fontsize(8)
        cells.auto_set_column_width(list(range(len(heading))))


def _pictures(figure: Pictures, axes: Axes) -> None:
    from PIL import Image

    side = figure.side
    canvas = np.full((len(figure.rows) * (side + 1), len(figure.columns) * (side + 1), 3), 255, np.uint8)
    for row, (_, pictures) in enumerate(figure.rows):
        for column, data in enumerate(pictures):
            if data is not None:
                picture = Image.open(io.BytesIO(base64.b64decode(data)), formats=("PNG",))
                image = np.array(picture.convert("RGB"))
                y, x = row * (side + 1), column * (side + 1)
                canvas[y : y + image.shape[0], x : x + image.shape[1]] = image[: side + 1, : side + 1]
    axes.imshow(canvas, interpolation="nearest")
    middle = (side + 1) * np.arange(max(len(figure.columns), len(figure.rows))) + side / 2
    axes.set_xticks(middle[: len(figure.columns)], figure.columns, fontsize="x-small")
    axes.set_yticks(middle[: len(figure.rows)], [label for label, _ in figure.rows], fontsize="x-small")
