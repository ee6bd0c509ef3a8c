"""The steps of an epoch at which its workers synchronise: is the loss finite, is a checkpoint wanted?

Clocks and notices differ between workers, so they exchange both in one sum. A look of several workers costs
an all-reduce of four numbers and a wait for the device, so it happens every `EVERY` steps. If steps are slow
it happens every `SECONDS`, by the clock of the first worker, which tells the others when. A single worker
checks after every step, and waits for its device no more often.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from dgflow.runtime.training.finiteness import Finite

EVERY = 10  # maximum number of steps between two looks
SECONDS = 5.0  # time between two looks, if that is fewer steps: a host is reclaimed at short notice


class Wish(NamedTuple):
    """A wish of one worker, or of any: a checkpoint of this step, and an end after it."""

    save: bool = False
    leave: bool = False


class Looks:
    """The looks of one epoch after each of its steps, counted from `begun`, on `rank` of `world_size`."""

    def __init__(
        self,
        finite: Finite,
        rank: int,
        world_size: int,
        begun: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._finite, self._rank, self._world_size, self._clock = finite, rank, world_size, clock
        self._last, self._since = begun, clock()
        self._next = begun + EVERY

    def after(self, step: int, total: Tensor, wish: Callable[[], Wish]) -> Wish:
        """Returns the combined wish of all workers after `step` steps of the epoch; `wish` returns this
        worker's own.

        Raises FloatingPointError, on all workers, if the loss `total` of one is not finite.
        """
        last = step >= self._finite.task.steps_per_epoch
        alone = self._world_size == 1
        if not (alone and total.device.type == "cpu") and step < self._next and not last:
            return wish() if alone else Wish()
        if alone:
            self._next = step + EVERY
            self._finite.check(total, bool(~total.isfinite()), step)
            return wish()
        told = torch.tensor([0.0, *wish(), self._until_next(step)], dtype=torch.float64)
        told = told.to(total.device)
        told[0] = ~total.isfinite()
        dist.all_reduce(told)
        bad, save, leave, until_next = told.tolist()
        self._next = step + int(until_next)
        self._finite.check(total, bad > 0, step)
        return Wish(save > 0, leave > 0)

    def _until_next(self, step: int) -> int:
        """Returns the number of steps until the next look, set by the first worker; 0 from the others."""
        if self._rank:
            return 0
        now = self._clock()
        seconds = (now - self._since) / max(1, step - self._last)
        self._last, self._since = step, now
        return min(EVERY, max(1, int(SECONDS / seconds))) if seconds > 0 else EVERY
