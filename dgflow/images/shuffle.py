"""The seeded random order of an import. It depends only on the seed and the listing, since the raw bits of
Philox, unlike numpy's permutation, are the same in all versions of numpy."""

from __future__ import annotations

import numpy as np


def shuffled(rows: np.ndarray, seed: int, groups: np.ndarray | None = None, window: int = 0) -> np.ndarray:
    """Returns `rows` (int64 [N]) in a random order.

    Reading one row of a row group costs as much as reading the group. With `groups` (int64 [N]), the row
    group of each row, consecutive rows of the order therefore come from few groups: groups are put in random
    order and gathered into windows of at least `window` rows, and rows are shuffled within each window.
    """
    keys = np.random.Philox(seed).random_raw(len(rows))
    if groups is None:
        return rows[np.argsort(keys, kind="stable")]
    _, group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(np.random.Philox(seed).jumped().random_raw(len(counts)), kind="stable")
    window_of = np.empty(len(counts), np.int64)
    number, held, left = 0, 0, len(rows)
    for each in order:
        if held >= window and left >= window:  # the remaining rows fill another window
            held, number = 0, number + 1
        window_of[each] = number
        held, left = held + counts[each], left - counts[each]
    return rows[np.lexsort((keys, window_of[group]))]
