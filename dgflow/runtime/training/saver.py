"""Checkpoints within an epoch: when one is due, and writing it concurrently with the training.

The training waits only for the copy of its state to memory: weights, two moments and averages, 16 bytes per
parameter, at 0.7 s of CPU per GB (two cores beside other programs; from a GPU the bus decides). A thread
computes digests, writes the file and uploads it: 5.4 s of CPU per GB, and the network's time. The end of an
epoch, and a further checkpoint, wait for one that is being written.
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
    """Writes one checkpoint at a time, `every` seconds after the end of the last one or of the last epoch; 0:
    only requested checkpoints.

    A checkpoint that cannot be written is a warning: the previous one remains, and the epoch's own follows.
    """

    def __init__(
        self, checkpoints: Checkpoints, every: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._checkpoints, self._every, self._clock = checkpoints, every, clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._writing: Future[None] | None = None
        self._last = clock()
        self.safe = 0  # steps over all epochs of the newest checkpoint that was written or found

    @property
    def due(self) -> bool:
        """True if the interval has passed and nothing is being written."""
        if not self._every or (self._writing is not None and not self._writing.done()):
            return False
        return self._clock() - self._last >= self._every

    def save(
        self, steps: int, tensors: Mapping[str, Tensor], workers: int, seconds: float, device: torch.device
    ) -> None:
        """Starts to write the state after `steps` over all epochs; arguments as for `Checkpoints.save`."""
        self.wait()
        self._writing = self._thread.submit(self._write, steps, tensors, workers, seconds, device)

    def wait(self) -> None:
        """Waits until nothing is being written."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def restart(self) -> None:
        """Restarts the interval, because an epoch is committed."""
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
