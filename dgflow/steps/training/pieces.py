"""Pieces of shards: the rows of a slice for training, and the held-out rows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from dgflow.specs.bound import BoundRows
from dgflow.store.receipts import ManifestEntry
from dgflow.store.shards import Columns


@dataclass(frozen=True, eq=False)
class Piece:
    """Rows of a shard: those from `start` to `stop` by index, or the `chosen` of these."""

    entry: ManifestEntry
    start: int
    stop: int
    chosen: np.ndarray | None = None  # int32, counted from `start`, ascending; may repeat. None: each once

    @property
    def rows(self) -> int:
        return self.stop - self.start if self.chosen is None else len(self.chosen)

    def located(self, rows: np.ndarray) -> np.ndarray:
        """Returns the positions, counted from `start`, of the piece's rows by number."""
        return rows if self.chosen is None else self.chosen[rows]


class Decoded:
    """Decoded pieces by number; the most recently used stay in memory."""

    def __init__(self, pieces: Sequence[Piece], read: Callable[[Piece], Columns]) -> None:
        self.pieces, self._read = pieces, read
        self.held: OrderedDict[int, Future[Columns]] = OrderedDict()

    def get(
        self, wanted: Sequence[int], following: Sequence[int], keep: int, readers: ThreadPoolExecutor
    ) -> dict[int, Future[Columns]]:
        """Reads the pieces `wanted`, returns them, and starts to read the pieces `following`. Of the other
        pieces, the most recently used stay in memory, up to `keep` pieces in all. Not thread-safe."""
        needed = [*wanted, *following]
        for number in needed:
            if number not in self.held:
                self.held[number] = readers.submit(self._read, self.pieces[number])
            self.held.move_to_end(number)
        while len(self.held) > max(keep, len(set(needed))):
            self.held.popitem(last=False)
        return {number: self.held[number] for number in wanted}

    def forget(self) -> None:
        self.held.clear()


def divided(rows: BoundRows, training: int) -> tuple[list[Piece], list[Piece]]:
    """Returns the first `training` rows, each once, and the others, which are held out."""
    edge = rows.start + training
    return _cut(rows, rows.start, edge), _cut(rows, edge, rows.stop)


def resampled(rows: BoundRows, times: np.ndarray) -> tuple[list[Piece], list[Piece]]:
    """Returns each row as often as it was drawn (`times`, int64 [rows]), and the rows that were not drawn,
    which are held out."""
    taken, left = [], []
    for piece in _cut(rows, rows.start, rows.stop):
        own = times[piece.start - rows.start : piece.stop - rows.start]
        places = np.arange(piece.rows, dtype=np.int32)
        for pieces, chosen in ((taken, places.repeat(own)), (left, places[own == 0])):
            if len(chosen):
                pieces.append(Piece(piece.entry, piece.start, piece.stop, chosen))
    return taken, left


def _cut(rows: BoundRows, start: int, stop: int) -> list[Piece]:
    """Returns the parts of shards that cover the indices [start, stop)."""
    cut = (Piece(entry, max(start, entry.start), min(stop, entry.stop)) for entry in rows.manifest.entries)
    return [piece for piece in cut if piece.start < piece.stop]
