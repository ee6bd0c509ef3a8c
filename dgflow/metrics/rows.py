"""Rows of features: the checks and the index blocks that every metric shares.

Promises: a row that is not finite is named before it spoils a sum; rows that arrive in pieces of any size are
    summed in the same whole
blocks, one thread a block. Leaves to others: where the rows come from, and that they come in index order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic

import numpy as np
import torch

from dgflow.metrics.block_sums import BlockSums, T

BLOCK_SIZE = 1000  # indices a block; another size changes the last bits of every sum


@contextmanager
def one_thread() -> Iterator[None]:
    """BLAS may split a sum differently for each thread count, so bits that must not depend on it are computed
    with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def checked_rows(rows: np.ndarray, what: str, first_index: int = 0, width: int | None = None) -> np.ndarray:
    """`rows` [N, D] as an array, once it is known to be two-dimensional, real, finite and (if `width` is
    given) `width` wide.

    `what` and `first_index`, the index of row 0, are for the message. Raises ValueError that names the first
    bad row.
    """
    rows = np.asarray(rows)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(
            f"{what}: expected one row a sample, shape [N, D], found shape {list(rows.shape)}; flatten "
            "each sample to one row"
        )
    if rows.dtype.kind not in "fiu":
        raise ValueError(f"{what}: expected real numbers, found dtype {rows.dtype}")
    if width is not None and rows.shape[1] != width:
        raise ValueError(
            f"{what}: expected {width} columns as in the rows before, found {rows.shape[1]}; take one "
            "layer of one network"
        )
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(
            f"{what}: row {first_index + row} is not finite ({int((~finite).sum())} such rows in "
            f"{len(rows)}); find its image, or extract the features in float32"
        )
    return rows


class BlockAccumulator(Generic[T]):
    """Rows of any piece size in, the sums of their blocks out. Blocks are cut at the multiples of
    `block_size` counted from index 0.

    `summed(first, block)` makes the sum of one block, float64 [<= block_size, D], whose first row has index
    `first`. Cutting by index and not by piece makes the sums depend on the rows alone; so a range of indices
    that is summed on its own must begin where a block does.
    """

    def __init__(
        self,
        summed: Callable[[int, np.ndarray], T],
        what: str,
        first_index: int = 0,
        block_size: int = BLOCK_SIZE,
    ):
        if first_index < 0 or first_index % block_size:
            raise ValueError(
                f"{what}: expected rows from an index that is a multiple of {block_size}, found "
                f"{first_index}; cut ranges at block edges"
            )
        self._summed, self._what, self._block_size = summed, what, block_size
        self._next_index = first_index
        self._width: int | None = None
        self._pieces: list[np.ndarray] = []  # of the block that is not yet whole
        self._sums: BlockSums[T] = BlockSums()

    def add(self, rows_ND: np.ndarray) -> None:
        """Take the next rows [N, D].

        Raises ValueError, before any row is taken, if one is not finite (it is named) or the width changed
        (both are).
        """
        rows_ND = checked_rows(rows_ND, self._what, self._next_index, self._width)
        self._width = rows_ND.shape[1]
        while len(rows_ND):
            piece, rows_ND = np.split(rows_ND, [self._block_size - self._next_index % self._block_size])
            self._pieces.append(piece.astype(np.float64))
            self._next_index += len(piece)
            if self._next_index % self._block_size == 0:
                self._sums, self._pieces = self.sums(), []

    def sums(self) -> BlockSums[T]:
        """Sums of all rows so far, those of an unfinished block included; more rows may follow."""
        if not self._pieces:
            return self._sums
        block = np.concatenate(self._pieces)
        first = self._next_index - len(block)
        with one_thread():
            return self._sums + BlockSums.of(first // self._block_size, self._summed(first, block))
