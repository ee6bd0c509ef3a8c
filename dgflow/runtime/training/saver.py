"""Writes checkpoints within an epoch, concurrently with the training, and decides when one is due.

The training waits only while its state is copied: weights, two moments and averages, 16 bytes per parameter,
at 0.7 s of CPU per GB (two busy cores; from a GPU the bus is the limit). A thread computes digests, writes
the file and uploads it, which takes 5.4 s of CPU per GB and the time of the network. The end of an epoch, and
the next checkpoint, wait until the current checkpoint is written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from dgflow.runtime.training.checkpoints import Checkpoints

log = logging.getLogger(__name__)


class Saver:
    """Writes one checkpoint at a time. One is due `every` seconds after the last one was written or the last
    epoch ended; with 0, never.

    If a checkpoint cannot be written, a warning is logged: the previous one remains, and the checkpoint of
    the epoch follows.
    """

    def __init__(
        self, checkpoints: Checkpoints, every: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._checkpoints, self._every, self._clock = checkpoints, every, clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._writing: Future[None] | None = None
        self._last = clock()
        self.safe = 0  # steps, over all epochs, before the newest checkpoint

    @property
    def due(self) -> bool:
        """True if the interval has passed and nothing is being written."""
        if not self._every or (self._writing is not None and not self._writing.done()):
            return False
        return self._clock() - self._last >= self._every

    def save(
        self, steps: int, tensors: Mapping[str, Tensor], workers: int, seconds: float, device: torch.device
    ) -> None:
        """Starts writing a checkpoint after `steps` over all epochs; arguments as for `Checkpoints.save`."""
        self.wait()
        self._writing = self._thread.submit(self._write, steps, tensors, workers, seconds, device)

    def wait(self) -> None:
        """Waits until nothing is being written."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def restart(self) -> None:
        """Restarts the interval, because an epoch was committed."""
        self._last = self._clock()

    def close(self) -> None:
        self._thread.shutdown(wait=True)

    def _write(
        self, steps: int, tensors: Mapping[str, Tensor], workers: int, seconds: float, device: torch.device
    ) -> None:
        try:
            self._checkpoints.save(steps, tensors, workers, seconds, device)
            self.safe = steps
        except Exception as error:
            log.warning("the checkpoint after step %d could not be written: %s", steps, error)
        finally:
            self._last = self._clock()
