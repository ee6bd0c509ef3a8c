"""Sizes of perceptrons that cannot be. Loads no torch."""

from __future__ import annotations


def check_units(width: int, layers: int) -> None:
    """Raises ValueError for a perceptron of no units or no layers."""
    if width < 1 or layers < 1:
        raise ValueError(f"expected at least one layer of one unit, found layers={layers}, width={width}")
