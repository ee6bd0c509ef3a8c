"""Sizes of toy networks: the values that replace published sizes in smoke runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def divided(sides: Iterable[int], factor: int) -> tuple[int, ...]:
    """Divide the sides with attention by `factor`, like the image's side."""
    return tuple(max(1, side // factor) for side in sides)


def capped(multiples: Iterable[Number], most: Number) -> tuple[Number, ...]:
    """Limit the multiples of a width to `most`."""
    return tuple(min(multiple, most) for multiple in multiples)
