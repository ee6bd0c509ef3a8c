"""Arithmetic of toy forms: what smoke runs put in the place of published sizes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def divided(sides: Iterable[int], factor: int) -> tuple[int, ...]:
    """Sides of attention, where those of the images are divided by `factor`."""
    return tuple(max(1, side // factor) for side in sides)


def capped(multiples: Iterable[Number], most: Number) -> tuple[Number, ...]:
    """Multiples of a width, none above `most`."""
    return tuple(min(multiple, most) for multiple in multiples)
