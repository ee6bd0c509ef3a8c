"""Compare two trade-off curves, such as realism over faithfulness, by the mean vertical gap between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Curve = tuple[Sequence[float], Sequence[float]]
"""x and y of a curve's points, in any order."""


def mean_gap(curve: Curve, base: Curve) -> float | None:
    """Return the mean of y_base - y over the range of x that both curves cover, which is positive if `curve`
    is lower than `base`. Curves are linear between their points.

    None if the ranges of x do not overlap in an interval.
    """
    (x, y), (base_x, base_y) = _ordered(curve), _ordered(base)
    low, high = max(x[0], base_x[0]), min(x[-1], base_x[-1])
    if low >= high:
        return None
    corners = np.unique(np.clip(np.concatenate([x, base_x]), low, high))
    gap = np.interp(corners, base_x, base_y) - np.interp(corners, x, y)
    # Linear between the corners, so trapezoids are exact.
    return float(np.sum((gap[1:] + gap[:-1]) / 2 * np.diff(corners)) / (high - low))


def _ordered(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.asarray(values, dtype=np.float64) for values in curve)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError(f"expected as many x as y, one or more, found shapes {x.shape} and {y.shape}")
    order = np.argsort(x, kind="stable")
    return x[order], y[order]
