"""Draws the arrows of a field in the plane as one path, and computes their scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dgflow.specs.figures import Pair, PlanePlot

FILLING = 1.0  # ratio of a long arrow's length to the distance between arrows, if the figure gives no scale
LONG = 0.95  # quantile of the lengths that counts as long
HEAD = 0.35  # length of an arrow's head as a share of the arrow's length, within the bounds below
SHORTEST_HEAD, LONGEST_HEAD = 1.0, 4.5  # in user units
OPENING = 0.45  # angle between an arrow and each side of its head, in radians
LEAST = 0.3  # length in user units below which an arrow is drawn as a dot
SCALE_LENGTH = 40  # maximum length of the arrow in the legend, in user units


def arrow_scale(figure: PlanePlot) -> float:
    """Returns the length in the plane of an arrow of length 1: the figure's own scale, or else a scale with
    which long arrows just do not overlap."""
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
    """Returns the path data of arrows given as (start, displacement) in user units, with y downwards."""
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
