"""The lease on a training, by which only one driver trains a step at a time. Drivers write claims to the
root:

    attempts/drivers-00007.json   the seventh claim; the newest claim holds the lease

The number of a claim has one owner, because the object is created exclusively. Only its owner rewrites it, as
a heartbeat. A later driver waits while the newest claim has a heartbeat. It creates the next claim once

- the newest one has had no heartbeat for `STALE_SECONDS` by the store's clock,
- it is marked as ended, or
- its process was on the same host and has ended.

A driver that was paused meanwhile finds a newer claim than its own and stops, and so do its workers.

No committed data depends on the lease: the names of checkpoints distinguish the epochs of different
trainings. The lease only avoids the work of a second training.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, ValidationError

from dgflow.store.identity import canonical_json
from dgflow.store.objects import StoreError
from dgflow.store.processes import Process, has_ended, this_process
from dgflow.store.runs import BEAT_SECONDS, STALE_SECONDS
from dgflow.store.step_store import StepStore

FOLDER = "drivers"  # the folder in the names of the notes

log = logging.getLogger(__name__)


class Claim(BaseModel):
    """The claim of a driver that trains a step, or has trained it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    host: str = "an unknown host"
    pid: int = 0
    process: Process | None = None
    seconds: float = 0.0  # from its start to its latest heartbeat
    ended: bool = False


class Lease:
    """The right of this process to train a step. A thread sends heartbeats from `take` to `end`."""

    def __init__(
        self,
        step_store: StepStore,
        *,
        every: float = BEAT_SECONDS,
        process: Callable[[], Process | None] = this_process,
    ) -> None:
        self.number = 0  # number of this process's claim; 0 before the first
        self.lost = True
        self._step_store, self._every = step_store, every
        self._claim = Claim(id=uuid4().hex, host=socket.gethostname(), pid=os.getpid(), process=process())
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> Claim | None:
        """Takes the lease: returns None once it is held, otherwise the claim of its holder.

        Raises StoreError.
        """
        if not self.lost:
            return None
        claims = self._step_store.noted(FOLDER)
        newest = max(claims, default=0)
        if newest:
            claim = self._read(newest)
            silent = self._step_store.store.now() - claims[newest].modified
            gone = claim.ended or (claim.process is not None and has_ended(claim.process))
            if claim.id != self._claim.id and not gone and silent < STALE_SECONDS:
                return claim.model_copy(update={"seconds": claim.seconds + max(0.0, silent)})
        self._stop()
        self._began = time.monotonic()
        self._claim = self._claim.model_copy(update={"id": uuid4().hex, "seconds": 0.0})
        is_new = self._step_store.store.create(self._key(newest + 1), self._text())
        if not is_new and (winner := self._read(newest + 1)).id != self._claim.id:
            return winner
        self.number, self.lost = newest + 1, False
        self._wake.clear()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()
        for number in claims:
            self._step_store.store.delete(self._key(number))
        return None

    def beat(self) -> None:
        """Sends a heartbeat, and checks whether another driver has taken the lease."""
        self._write({"seconds": time.monotonic() - self._began})
        self.lost = self.lost or is_lost(self._step_store, self.number)

    def end(self) -> None:
        """Releases the lease."""
        self._stop()
        if not self.lost:
            self.lost = True
            try:
                self._write({"ended": True})
            except StoreError as error:
                log.warning("the next driver waits for %.0f s: %s", STALE_SECONDS, error)

    def _run(self) -> None:
        while not self._wake.wait(self._every) and not self.lost:
            try:
                self.beat()
            except StoreError as error:
                log.warning("could not send a heartbeat to other drivers: %s", error)

    def _stop(self) -> None:
        if self._thread is not None:
            self._wake.set()
            self._thread.join()
            self._thread = None

    def _key(self, number: int) -> str:
        return f"{self._step_store.name}/attempts/{FOLDER}-{number:05d}.json"

    def _text(self) -> bytes:
        return canonical_json(self._claim.model_dump()).encode()

    def _write(self, changed: dict[str, Any]) -> None:
        self._claim = self._claim.model_copy(update=changed)
        self._step_store.store.put(self._key(self.number), self._text())

    def _read(self, number: int) -> Claim:
        try:
            return Claim.model_validate(self._step_store.attempt(FOLDER, number))
        except ValidationError:  # unreadable, or removed since it was listed: only its age counts
            return Claim(id="")


def is_lost(step_store: StepStore, number: int) -> bool:
    """True if there is a claim with a higher number. Raises StoreError."""
    return max(step_store.noted(FOLDER), default=0) > number


class Watch:
    """Checks periodically, in a thread of a worker, whether the claim of its driver is still the newest."""

    def __init__(self, step_store: StepStore, number: int, every: float = BEAT_SECONDS) -> None:
        self.lost = False
        self._step_store, self._number, self._every = step_store, number, every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self.lost and not self._ended.wait(self._every):
            try:
                self.lost = is_lost(self._step_store, self._number)
            except StoreError as error:
                log.warning("could not check the lease on %s: %s", self._step_store.name, error)
