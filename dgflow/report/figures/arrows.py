"""Arrows of a field in the plane, as one path, and the arrow that shows their scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dgflow.specs.figures import Pair, PlanePlot

FILLING = 1.0  # ratio of a long arrow's length to the distance between two, if no scale is given
LONG = 0.95  # share of arrows that are not longer; a few may be
HEAD = 0.35  # of an arrow's length, within the bounds below, in user units
SHORTEST_HEAD, LONGEST_HEAD = 1.0, 4.5
OPENING = 0.45  # radians between an arrow and each side of its head
LEAST = 0.3  # user units below which an arrow is a dot
SCALE_LENGTH = 40  # user units that the arrow of the legend takes at most


def arrow_scale(figure: PlanePlot) -> float:
    """Returns the length in the plane of an arrow of length 1: the figure's, or one with which the arrows
    fill the plane."""
    if figure.arrow_scale is not None:
        return figure.arrow_scale
    lengths = sorted(math.hypot(*by) for _, by in figure.arrows)
    long = lengths[math.ceil(LONG * len(lengths)) - 1] or lengths[-1]
    (left, right), (low, high) = figure.x_range, figure.y_range
    apart = math.sqrt((right - left) * (high - low) / len(lengths))
    return FILLING * apart / long if long > 0 else 1.0


def round_length(most: float) -> float:
    """Returns the largest of 1, 2 and 5 times a power of ten that is at most `most`."""
    power = 10.0 ** math.floor(math.log10(most) + 1e-12)
    return max(digit * power for digit in (1, 2, 5) if digit * power <= most * (1 + 1e-12))


def arrows_path(arrows: Sequence[tuple[Pair, Pair]]) -> str:
    """Returns the data of a path for arrows given as (from, by) in user units, y downwards."""
    return "".join(_arrow(*start, *by) for start, by in arrows)


def _arrow(x: float, y: float, by_x: float, by_y: float) -> str:
    length = math.hypot(by_x, by_y)
    if length < LEAST:
        return f"M{x:.1f} {y:.1f}h0"
    head, angle = min(max(HEAD * length, SHORTEST_HEAD), LONGEST_HEAD), math.atan2(by_y, by_x)
    sides = [(-head * math.cos(angle + turn), -head * math.sin(angle + turn)) for turn in (-OPENING, OPENING)]
    (left_x, left_y), (right_x, right_y) = sides
    shaft = f"M{x:.1f} {y:.1f}l{by_x:.1f} {by_y:.1f}"
    barbs = f"l{-left_x:.1f} {-left_y:.1f}l{right_x:.1f} {right_y:.1f}"
    return f"{shaft}m{left_x:.1f} {left_y:.1f}{barbs}"
