"""Checkpoints within an epoch: when one is due, and writing it beside the training.

The training waits for the copy of its state to memory alone: weights, two moments and averages, 16 bytes per
parameter, at 0.7 s of CPU per GB (two cores beside other programs; from a GPU the bus decides). Digests, file
and upload are a thread's: 5.4 s of CPU per GB, and the network's time. The end of an epoch, and a further
checkpoint, wait for one that is being written.
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
    """Writes one checkpoint at a time, `every` seconds after the end of the last one or of the last epoch;
    0: only those that are asked for.

    A checkpoint that cannot be written is a warning: the one before stands, and the epoch's own comes.
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
        """Tells if the interval has passed, and nothing is being written."""
        if not self._every or (self._writing is not None and not self._writing.done()):
            return False
        return self._clock() - self._last >= self._every

    def save(
        self, steps: int, tensors: Mapping[str, Tensor], workers: int, seconds: float, device: torch.device
    ) -> None:
        """Begin to write the state after `steps` over all epochs; arguments as `Checkpoints.save`."""
        self.wait()
        self._writing = self._thread.submit(self._write, steps, tensors, workers, seconds, device)

    def wait(self) -> None:
        """Until nothing is being written."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def restart(self) -> None:
        """An epoch is committed: the interval begins anew."""
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
