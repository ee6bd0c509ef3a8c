"""The seeded random order of an import. It depends on the seed and the listing alone: Philox's raw bits are
fixed by its definition, unlike numpy's permutation."""

from __future__ import annotations

import numpy as np


def shuffled(rows: np.ndarray, seed: int, groups: np.ndarray | None = None, window: int = 0) -> np.ndarray:
    """`rows` (int64 [N]) in a random order.

    `groups` (int64 [N]) says the row group of each, of which one row costs as much to read as all. Then the
    groups are put in random order, neighbours are gathered into windows of `window` rows or more, and rows
    are shuffled within a window: neighbours in the order come from few groups.
    """
    keys = np.random.Philox(seed).random_raw(len(rows))
    if groups is None:
        return rows[np.argsort(keys, kind="stable")]
    _, group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(np.random.Philox(seed).jumped().random_raw(len(counts)), kind="stable")
    window_of = np.empty(len(counts), np.int64)
    number, held, left = 0, 0, len(rows)
    for each in order:
        if held >= window and left >= window:  # what is left fills one more
            held, number = 0, number + 1
        window_of[each] = number
        held, left = held + counts[each], left - counts[each]
    return rows[np.lexsort((keys, window_of[group]))]
