"""Batches that fit into memory: a range of rows is cut evenly, and finer if a GPU runs out of memory.

A row's batch changes its values by rounding at most.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import torch

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Batches:
    """At most `size` rows at a time, in parts of nearly equal size. Out of memory, the size is halved and
    stays so.

    Args:
        of: name of the step, for messages.
        fixed: cut at every `size` rows and never finer, since a batch's rows decide its values.
    """

    def __init__(self, size: int, *, of: str, fixed: bool = False) -> None:
        self.size, self.of, self.fixed = size, of, fixed

    def map(self, make: Callable[[int, int], Result], start: int, stop: int) -> list[Result]:
        """`make(first, last)` of every batch of [start, stop), in order; all again if memory runs out.

        Raises:
            ValueError: memory does not suffice for one row, or for a batch that is fixed.
        """
        while True:
            edges = self._edges(start, stop)
            try:
                return [make(first, last) for first, last in pairwise(edges)]
            except torch.OutOfMemoryError as error:
                largest = max(last - first for first, last in pairwise(edges))
                if self.fixed:
                    raise ValueError(
                        f"{self.of}: expected GPU memory for a shared_block of {self.size} samples, found "
                        f"too little ({error}); the block is part of what is computed and is not cut: take "
                        "GPUs with more memory, or one process a GPU (--num-gpus 1)"
                    ) from error
                if largest == 1:
                    raise ValueError(
                        f"{self.of}: expected GPU memory for one row at a time, found too little "
                        f"({error}); take GPUs with more memory, "
                        "one process a GPU (--num-gpus 1), the CPU (--num-gpus 0), or precision='bfloat16'"
                    ) from error
                self.size = largest // 2
                log.warning(
                    "%s: out of GPU memory with batches of %d; this worker goes on with at most %d, which "
                    "can change rounding",
                    self.of,
                    largest,
                    self.size,
                )
            # After the handler: until its end the error holds the tensors of the batch.
            torch.cuda.empty_cache()

    def _edges(self, start: int, stop: int) -> list[int]:
        """The ends of the batches."""
        if self.fixed:
            return [*range(start, stop, self.size), stop]
        count = -(-(stop - start) // self.size)
        return [start + (stop - start) * number // count for number in range(count + 1)]
