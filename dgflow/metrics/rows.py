"""Rows of features: the checks and the index blocks that every metric shares.

Promises: a row that is not finite is named before it spoils a sum; rows that arrive in pieces of any size leave in the same whole blocks.
Leaves to others: where the rows come from, and that they come in index order.
"""

from collections.abc import Iterator

import numpy as np


def checked_rows(rows: np.ndarray, what: str, first_index: int = 0, width: int | None = None) -> np.ndarray:
    """`rows` [N, D] as an array, once it is known to be two-dimensional, real, finite and (if `width` is given) `width` wide.

    `what` and `first_index`, the index of row 0, are for the message. Raises ValueError that names the first bad row.
    """
    rows = np.asarray(rows)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"{what}: expected one row a sample, shape [N, D], found shape {list(rows.shape)}; flatten each sample to one row")
    if rows.dtype.kind not in "fiu":
        raise ValueError(f"{what}: expected real numbers, found dtype {rows.dtype}")
    if width is not None and rows.shape[1] != width:
        raise ValueError(f"{what}: expected {width} columns as in the rows before, found {rows.shape[1]}; take one layer of one network")
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(
            f"{what}: row {first_index + row} is not finite ({int((~finite).sum())} such rows in {len(rows)}); find its image, "
            "or extract the features in float32"
        )
    return rows


class BlockBuffer:
    """Rows of any piece size in, float64 blocks [<= block_size, D] out, cut at the multiples of `block_size` counted from index 0.

    Floating-point sums depend on their order. Cutting by index and not by piece makes them depend on the rows alone.
    """

    def __init__(self, block_size: int, what: str, first_index: int = 0):
        if block_size < 1 or first_index < 0:
            raise ValueError(f"{what}: expected block_size >= 1 and first_index >= 0, found {block_size} and {first_index}")
        self.next_index = first_index
        self._block_size, self._what = block_size, what
        self._width: int | None = None
        self._pieces: list[np.ndarray] = []

    def add(self, rows_ND: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Take the rows that follow those already taken; yields (index of its first row, block) for each block that they complete.

        A generator: run it to its end. Raises ValueError, before any row is taken, if one is not finite or the width changed.
        """
        rows_ND = checked_rows(rows_ND, self._what, self.next_index, self._width)
        self._width = rows_ND.shape[1]
        taken = 0
        while taken < len(rows_ND):
            piece = rows_ND[taken : taken + self._block_size - self.next_index % self._block_size]
            self._pieces.append(piece.astype(np.float64))
            taken, self.next_index = taken + len(piece), self.next_index + len(piece)
            if self.next_index % self._block_size == 0:
                whole = self.rest()
                self._pieces = []
                yield whole

    def rest(self) -> tuple[int, np.ndarray]:
        """(index of its first row, block) for the rows of the block that is not yet whole; it stays in the buffer."""
        block = np.concatenate(self._pieces) if self._pieces else np.empty((0, self._width or 0))
        return self.next_index - len(block), block
