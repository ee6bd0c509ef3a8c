"""Distances of translated images to their sources: of the images, and of their features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from dgflow.specs.bound import Bound
from dgflow.specs.step import Spread
from dgflow.steps.judging.feature_passes import ranges

PAIRS = 2_000
"""Pairs per item of work: 25 MB of images at 64 pixels."""
DISTANCES = ("l2", "perceptual")

Item = tuple[str, int, int]


def distances(
    inputs: Bound, names: Sequence[str], rows: int, spread: Spread
) -> dict[str, dict[str, np.ndarray]]:
    """Returns the distance of every image to its source, float64 [rows], by slice in `names` and by kind of
    distance.

    `l2` is the Euclidean distance of the images, with values in [0, 1]; `perceptual` that of their features.
    `inputs` has images and features of the sources as `source` and `source.features`, and those of a slice as
    `NAME` and `NAME.features`; row i of each belongs to row i of the sources.
    """
    items = [(name, *piece) for name in names for piece in ranges(rows, PAIRS)]
    found: dict[Item, tuple[np.ndarray, ...]] = {}
    spread(partial(_measuring, inputs), items, found.__setitem__)
    return {
        name: {
            distance: np.concatenate([found[item][number] for item in items if item[0] == name])
            for number, distance in enumerate(DISTANCES)
        }
        for name in names
    }


def _measuring(inputs: Bound) -> Callable[[Item], tuple[np.ndarray, ...]]:
    def measure(item: Item) -> tuple[np.ndarray, ...]:
        name, start, stop = item

        def gap(suffix: str, column: str, scale: float) -> np.ndarray:
            ours, source = (
                inputs.rows(f"{side}{suffix}", [column], start, stop)[column].reshape(stop - start, -1)
                for side in (name, "source")
            )
            return np.linalg.norm(ours.astype(np.float64) - source, axis=1) / scale

        return gap("", "image", 255), gap(".features", "features", 1)

    return measure
