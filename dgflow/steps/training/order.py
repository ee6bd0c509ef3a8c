"""The row for each slot of a training batch: a pure function of (seed, step) that reads shards one by one.

A pass over the rows takes the shards in a random order, and the rows within each in a random order. The rows
of a shard are random from the start (importing permutes, sampling is independent), so this mixes about as
well as a permutation of all rows. The pass is divided into `lanes` ranges of nearly equal length. A batch
takes equally many rows from each lane, and each lane repeats its own range, pass after pass. Therefore every
row is used exactly once per pass, a batch mixes rows from as many shards as there are lanes, and one or two
shards per lane are in memory. Workers have their own slots, and so read only the shards of their own lanes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

MOST_LANES = 16
"""Must not change: with another number the same (seed, step) would select other rows."""


class Rows(NamedTuple):
    """Rows by the number of their piece and their index in it, int64 [b] each."""

    piece: np.ndarray
    row: np.ndarray


class _Located(NamedTuple):
    rows: Rows
    end: np.ndarray  # end of the piece, in the pass's order


@dataclass(frozen=True)
class Order:
    """The order of the rows of some pieces (`sizes`: the rows of each) in batches of `batch` rows."""

    sizes: tuple[int, ...]
    batch: int
    seed: int

    @cached_property
    def lanes(self) -> int:
        """The largest divisor of the batch up to `MOST_LANES` and the number of rows."""
        return next(lanes for lanes in range(min(MOST_LANES, self.rows), 0, -1) if self.batch % lanes == 0)

    @cached_property
    def rows(self) -> int:
        return sum(self.sizes)

    def batch_rows(self, step: int, slots: np.ndarray) -> Rows:
        """Returns the rows of `slots` (int64 [b], from 0 to `batch`) in the batch of a step, counted from 0
        over all passes."""
        return self._located(*self._positions(step, slots)).rows

    def ahead(self, step: int, slots: np.ndarray) -> list[int]:
        """Returns the next pieces of the lanes of these slots, after those of this step."""
        lane = self._lane(slots)
        last = np.array([slots[lane == each].max() for each in np.unique(lane)], dtype=np.int64)
        passes, position = self._positions(step, last)
        begins = self._begins
        end = self._located(passes, position).end
        goes_on = end < begins[self._lane(last) + 1]
        following = np.where(goes_on, end, begins[self._lane(last)])
        return self._located(passes + ~goes_on, following).rows.piece.tolist()

    def lanes_of(self, slots: np.ndarray) -> int:
        """Returns the number of lanes that contain these slots."""
        return len(np.unique(self._lane(slots)))

    @cached_property
    def _begins(self) -> np.ndarray:
        """The beginning of each lane, and the end of the last."""
        return np.arange(self.lanes + 1, dtype=np.int64) * self.rows // self.lanes

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.array(self.sizes, dtype=np.int64)

    def _lane(self, slots: np.ndarray) -> np.ndarray:
        return slots // (self.batch // self.lanes)

    def _positions(self, step: int, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the pass of each slot, and the position in its order."""
        share, lane = self.batch // self.lanes, self._lane(slots)
        drawn = step * share + slots % share  # rows that the lane has yielded before
        length = np.diff(self._begins)[lane]
        return drawn // length, self._begins[lane] + drawn % length

    def _located(self, passes: np.ndarray, position: np.ndarray) -> _Located:
        piece, row, end = (np.empty(len(position), dtype=np.int64) for _ in range(3))
        for number in np.unique(passes).tolist():
            chosen = np.flatnonzero(passes == number)
            order = _shuffled(self.seed, number, 0, len(self.sizes))
            ends = self._sizes[order].cumsum()
            rank = np.searchsorted(ends, position[chosen], side="right")
            piece[chosen], end[chosen] = order[rank], ends[rank]
            within = position[chosen] - ends[rank] + self._sizes[order[rank]]
            for each in np.unique(order[rank]).tolist():
                own = piece[chosen] == each
                row[chosen[own]] = _shuffled(self.seed, number, 1 + each, self.sizes[each])[within[own]]
        return _Located(Rows(piece, row), end)


@lru_cache(maxsize=256)
def _shuffled(seed: int, number: int, stream: int, size: int) -> np.ndarray:
    # Philox's raw bits are fixed by its definition, so the order is the same on every machine and version.
    # Streams are 2**192 blocks apart.
    keys = np.random.Philox(key=[seed, number], counter=[0, 0, 0, stream]).random_raw(size)
    return np.argsort(keys, kind="stable")
