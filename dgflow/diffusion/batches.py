"""Split a range of rows into batches of nearly equal size, and use smaller batches if a GPU runs out of
memory.

The size of its batch changes the values of a row by rounding at most.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import torch

from dgflow.diffusion.device_errors import is_out_of_memory

Result = TypeVar("Result")
Cut = TypeVar("Cut")

log = logging.getLogger(__name__)


PATIENCE = 16
"""Number of successful calls after which a halved batch size is doubled again, since another process may have
held the memory only for a while. The number doubles after each failed attempt.
"""


class Batches:
    """Process at most `size` rows at a time, in parts of nearly equal size. If memory runs out, the size is
    halved; later, the larger size is tried again.

    Args:
        of: name of the step, for messages.
        fixed: split at every `size` rows and never finer, since the values depend on the batch.
        make_room: called when memory has run out; frees memory that can be filled again, such as compiled
            graphs.
    """

    def __init__(
        self, size: int, *, of: str, fixed: bool = False, make_room: Callable[[], None] | None = None
    ) -> None:
        self.size, self.of, self.fixed, self.make_room = size, of, fixed, make_room
        self._most, self._fitted, self._patience = size, 0, PATIENCE

    def map(self, make: Callable[[int, int], Result], start: int, stop: int) -> list[Result]:
        """Call `make(first, last)` for every batch of [start, stop), in order; start over if memory runs out.

        Raises:
            ValueError: memory does not suffice for one row, or for a fixed batch.
        """

        def make_all(edges: list[int]) -> list[Result]:
            return [make(first, last) for first, last in pairwise(edges)]

        def largest(edges: list[int]) -> int:
            return max(last - first for first, last in pairwise(edges))

        return self._fitting(lambda: self._edges(start, stop), make_all, largest)

    def whole(self, make: Callable[[int], Result]) -> Result:
        """Call `make(size)`, which itself splits its rows into batches of at most `size`; otherwise like
        `map`.
        """
        return self._fitting(lambda: self.size, make, lambda size: size)

    def _fitting(
        self, cut: Callable[[], Cut], make: Callable[[Cut], Result], rows: Callable[[Cut], int]
    ) -> Result:
        """Call `make` with a split of the rows, and again with smaller batches if memory runs out. `rows`
        returns the largest batch of a split.
        """
        tried = self._grown()
        while True:
            cuts = cut()
            try:
                result = make(cuts)
                self._fitted += 1
                return result
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                largest = rows(cuts)
                if self.fixed:
                    raise ValueError(
                        f"{self.of}: expected GPU memory for a shared_block of {self.size} samples, found "
                        f"too little ({error}); a block is never split, because its samples share step "
                        "sizes: use GPUs with more memory, or one process per GPU (--num-gpus 1)"
                    ) from error
                if largest == 1:
                    raise ValueError(
                        f"{self.of}: expected GPU memory for one row at a time, found too little "
                        f"({error}): use GPUs with more memory, one process per GPU (--num-gpus 1), the CPU "
                        "(--num-gpus 0), or precision='bfloat16'"
                    ) from error
                self.size, self._fitted = largest // 2, 0
                if tried:
                    tried, self._patience = False, 2 * self._patience
                log.warning(
                    "%s: out of GPU memory with batches of %d; this worker continues with at most %d, which "
                    "can change the rounding of values",
                    self.of,
                    largest,
                    self.size,
                )
            # Outside the handler: the error keeps the tensors of the batch alive until the handler ends.
            if self.make_room is not None:
                self.make_room()
            torch.cuda.empty_cache()

    def _grown(self) -> bool:
        """Double a halved size once enough calls have succeeded; True if it was doubled."""
        if self.size == self._most or self._fitted < self._patience:
            return False
        self.size, self._fitted = min(2 * self.size, self._most), 0
        return True

    def _edges(self, start: int, stop: int) -> list[int]:
        """The boundaries of the batches."""
        if self.fixed:
            return [*range(start, stop, self.size), stop]
        count = -(-(stop - start) // self.size)
        return [start + (stop - start) * number // count for number in range(count + 1)]
