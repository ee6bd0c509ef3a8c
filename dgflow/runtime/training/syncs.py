"""Synchronises the workers of an epoch: they agree whether the loss is finite, and whether to save or stop.

A sync of several workers costs an all-reduce of four numbers and a wait for the device, so it happens every
`EVERY` steps. If steps are slow, it happens about every `SECONDS`, by the clock of the first worker, which
announces the next sync to the others. A single worker without a GPU checks after every step; with a GPU it
checks the loss, for which it waits for the device, every `EVERY` steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from dgflow.runtime.training.finiteness import Finite

EVERY = 10  # maximum number of steps between two syncs
SECONDS = 5.0  # time between two syncs, if that is fewer steps: a host is reclaimed at short notice


class Wish(NamedTuple):
    """A request of one worker, or of any: `save` a checkpoint after this step, `leave` the loop after it."""

    save: bool = False
    leave: bool = False


class Syncs:
    """The syncs of one epoch, of which `begun` steps are done, for the worker `rank` of `world_size`."""

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
        """Returns the combined wish of all workers after `step` steps of the epoch; between two syncs, no
        wish.
        `wish` returns the wish of this worker.

        Raises FloatingPointError on all workers if the sum of losses `total` of any is not finite.
        """
        last = step >= self._finite.task.steps_per_epoch
        alone = self._world_size == 1
        if not (alone and total.device.type == "cpu") and step < self._next and not last:
            return wish() if alone else Wish()
        if alone:
            self._next = step + EVERY
            self._finite.check(total, bool(~total.isfinite()), step)
            return wish()
        sums = torch.tensor([0.0, *wish(), self._until_next(step)], dtype=torch.float64)
        sums = sums.to(total.device)
        sums[0] = ~total.isfinite()
        dist.all_reduce(sums)
        bad, save, leave, until_next = sums.tolist()
        self._next = step + int(until_next)
        self._finite.check(total, bad > 0, step)
        return Wish(save > 0, leave > 0)

    def _until_next(self, step: int) -> int:
        """Returns the number of steps until the next sync, which only the first worker sets; 0 on others."""
        if self._rank:
            return 0
        now = self._clock()
        seconds = (now - self._since) / max(1, step - self._last)
        self._last, self._since = step, now
        return min(EVERY, max(1, int(SECONDS / seconds))) if seconds > 0 else EVERY
