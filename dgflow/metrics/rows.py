"""Checks of feature rows, and summation in whole index blocks, shared by the metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic

import numpy as np
import torch

from dgflow.metrics.block_sums import BlockSums, T

BLOCK_SIZE = 1000  # indices per block; a different size changes the last bits of every sum


@contextmanager
def one_thread() -> Iterator[None]:
    """A context in which torch uses one thread. With several threads, BLAS may split a sum by their number
    and round it differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def checked_rows(rows: np.ndarray, what: str, first_index: int = 0, width: int | None = None) -> np.ndarray:
    """Return `rows` [N, D] as an array.

    Raises ValueError unless the rows are 2-D, real, finite and, if given, of width `width`. The message calls
    the rows `what` and names the first bad row, counted from `first_index`.
    """
    rows = np.asarray(rows)
    if rows.ndim != 2 or rows.shape[1] == 0:
        found = f"found shape {list(rows.shape)}; flatten each sample to one row"
        raise ValueError(f"{what}: expected one row per sample, shape [N, D], {found}")
    if rows.dtype.kind not in "fiu":
        raise ValueError(f"{what}: expected real numbers, found dtype {rows.dtype}")
    if width is not None and rows.shape[1] != width:
        found = f"found {rows.shape[1]}; use one layer of one network"
        raise ValueError(f"{what}: expected {width} columns as in the rows before, {found}")
    finite_N = np.isfinite(rows).all(axis=1)
    if not finite_N.all():
        row, count = first_index + int(np.argmin(finite_N)), int((~finite_N).sum())
        raise ValueError(
            f"{what}: row {row} is not finite ({count} such rows in {len(rows)}); check its image, or "
            "extract the features in float32"
        )
    return rows


def check_widths(a: int, b: int, what: str = "features") -> None:
    """Raise ValueError unless two sets of features have the same dimension."""
    if a != b:
        raise ValueError(f"expected {what} of one dimension, found {a} and {b}; use one layer of one network")


class BlockAccumulator(Generic[T]):
    """Accumulate sums by block over rows that arrive in index order, in pieces of any size.

    Blocks are cut at multiples of `block_size`, so the sums do not depend on the pieces. Several workers may
    each sum a range that starts at such a multiple. Their `sums()`, added in any order, equal the sums of one
    pass bit for bit.

    Args:
        block_sum: sums one block, given the index of its first row and the rows, float64 [<= block_size, D].
        what: the name of the rows in messages.
        first_index: index of the first row, a multiple of `block_size`.
    """

    def __init__(
        self,
        block_sum: Callable[[int, np.ndarray], T],
        what: str,
        first_index: int = 0,
        block_size: int = BLOCK_SIZE,
    ):
        if first_index < 0 or first_index % block_size:
            raise ValueError(
                f"{what}: expected rows from an index that is a multiple of {block_size}, found "
                f"{first_index}; cut ranges at block edges"
            )
        self._block_sum, self._what, self.block_size = block_sum, what, block_size
        self._next_index = first_index
        self._width: int | None = None
        self._pieces: list[np.ndarray] = []  # pieces of the unfinished block
        self._sums: BlockSums[T] = BlockSums()

    def add(self, rows_ND: np.ndarray) -> None:
        """Add the next rows [N, D]. Raises ValueError as `checked_rows`, before any row is added."""
        rows_ND = checked_rows(rows_ND, self._what, self._next_index, self._width)
        self._width = rows_ND.shape[1]
        while len(rows_ND):
            piece, rows_ND = np.split(rows_ND, [self.block_size - self._next_index % self.block_size])
            self._pieces.append(piece.astype(np.float64))
            self._next_index += len(piece)
            if self._next_index % self.block_size == 0:
                self._sums, self._pieces = self.sums(), []

    def sums(self) -> BlockSums[T]:
        """Sums of all rows so far, including an unfinished block; more rows may follow."""
        if not self._pieces:
            return self._sums
        block = np.concatenate(self._pieces)
        first = self._next_index - len(block)
        with one_thread():
            return self._sums + BlockSums.of(first // self.block_size, self._block_sum(first, block))
