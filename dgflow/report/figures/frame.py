"""Draws the frame of a plot: grid, ticks and axis labels around its area."""

from __future__ import annotations

from dataclasses import dataclass

from dgflow.report.figures.axis import Axis
from dgflow.report.figures.svg import SIZE, WIDTH, Anchor, inside, line, text, text_width

LEFT, RIGHT, BOTTOM = 48, 12, 40  # margins of the area; the left one has room for the usual ticks
GAP = 8  # minimum distance between two texts on one line


@dataclass(frozen=True)
class Area:
    """The rectangle in which values are drawn, in user units."""

    left: float
    right: float
    top: float
    bottom: float


def left_for(y_axis: Axis) -> float:
    """Returns the width on the left that the ticks of a y axis need."""
    return max(LEFT, round(8 + max((text_width(words) for _, words in y_axis.ticks()), default=0)))


def grid(area: Area, x_axis: Axis, y_axis: Axis, x_label: str) -> list[str]:
    """Returns the elements of the frame: lines at the ticks of y, the ticks of both axes with their texts,
    and the label of x."""
    out = []
    for value, words in y_axis.ticks():
        y = y_axis.at(value)
        out.append(line("grid", area.left, y, area.right, y))
        out.append(text("tick", area.left - 6, y + 4, words, "end"))
    end = -GAP
    for value, words in x_axis.ticks():
        x = x_axis.at(value)
        out.append(line("axis", x, area.bottom, x, area.bottom + 4))
        middle = inside(x, words, 0, WIDTH)
        if middle - text_width(words) / 2 >= end + GAP / 2:
            out.append(text("tick", middle, area.bottom + 17, words, "middle"))
            end = middle + text_width(words) / 2
    out.append(line("axis", area.left, area.bottom, area.right, area.bottom))
    if x_label:
        middle = inside((area.left + area.right) / 2, x_label, 0, WIDTH)
        out.append(text("note", middle, area.bottom + 34, x_label, "middle"))
    return out


@dataclass(frozen=True)
class Box:
    """A text and the box around it. Its baseline starts at, is centred on, or ends at (x, y), by `anchor`."""

    x: float
    y: float
    words: str
    anchor: Anchor = "start"

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """The left, right, top and bottom edge."""
        width = text_width(self.words)
        left = self.x - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return left, left + width, self.y - 0.8 * SIZE, self.y + 0.25 * SIZE

    def distance(self, x: float, y: float) -> float:
        """Returns the distance of a point from the box, horizontal plus vertical; 0 inside."""
        left, right, top, bottom = self.edges
        return max(left - x, x - right, 0.0) + max(top - y, y - bottom, 0.0)

    def svg(self, kind: str) -> str:
        return text(kind, self.x, self.y, self.words, self.anchor)
