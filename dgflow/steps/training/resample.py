"""Bootstrap resamples of the rows of a slice, for bagging (Breiman 1996): as many draws with replacement as
there are rows. The rows that no draw takes, about 1 / e of them, are out of bag.

Draw j of resample `number` is a pure function of (seed, number, j, stream): Philox 4x64-10 (Salmon et al.
2011), whose raw bits are fixed by its definition. Layout, which must not change:
    key      word 0   seed        word 1   number
    counter  from     [1, 0, 1, stream], one stream for each slice of a step; word 2 is 0 in the orders of
                      rows, whose keys may be the same (`order`)
Draw j is word j of the output, scaled to [0, rows).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def times_drawn(rows: int, *, seed: int, number: int, stream: int) -> np.ndarray:
    """Returns the number of draws that take each row, int64 [rows], `rows` in all; zero for rows out of bag.

    Args:
        rows: from 1 to 2**31.
        seed, number: from 0, below 2**63.
        stream: draws of different streams are independent.
    """
    words = np.random.Philox(key=[seed, number], counter=[0, 0, 1, stream]).random_raw(rows)
    # The high half of word * rows, in two steps that stay below 2**64; the bias is below rows / 2**64.
    high, low = words >> np.uint64(32), words & np.uint64(2**32 - 1)
    scale = np.uint64(rows)
    drawn = (high * scale + (low * scale >> np.uint64(32))) >> np.uint64(32)
    return np.bincount(drawn.astype(np.int64), minlength=rows)


@lru_cache(maxsize=1024)
def out_of_bag(rows: int, *, seed: int, number: int, stream: int) -> int:
    """Returns the number of rows that no draw takes."""
    return int(np.count_nonzero(times_drawn(rows, seed=seed, number=number, stream=stream) == 0))
