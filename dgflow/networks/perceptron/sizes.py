"""Check the sizes of perceptrons. Does not load torch."""

from __future__ import annotations


def check_units(width: int, layers: int) -> None:
    """Raise ValueError for a perceptron without units or layers."""
    if width < 1 or layers < 1:
        raise ValueError(f"expected at least one layer of one unit, found layers={layers}, width={width}")
