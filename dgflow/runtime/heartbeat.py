"""Writes the record of a run and the heartbeat of its driver to the root, in a thread of the driver.

A failure to write does not fail the run: it is logged once, and the next beat tries again.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from dgflow._version import __version__
from dgflow.specs.graph import Node
from dgflow.store.objects import ObjectStore, StoreError
from dgflow.store.processes import this_process
from dgflow.store.runs import (
    BEAT_SECONDS,
    Asked,
    Beat,
    RunRecord,
    RunStep,
    beat_key,
    new_id,
    ranges,
    record_key,
)

END_SECONDS = 10.0  # maximum wait, at the end of a run, for a pending request of the thread

log = logging.getLogger(__name__)


def new_record(asked: Asked, nodes: Sequence[Node]) -> RunRecord:
    """Returns the record of a run of these steps that starts now, in this process."""
    steps = tuple(
        RunStep(
            name=node.step.name,
            title=node.step.title,
            kind=node.step.kind,
            folder=node.step.folder,
            unit=node.step.unit,
            wanted=ranges(node.step.parts(node.slices)),
        )
        for node in nodes
    )
    return RunRecord(
        id=new_id(),
        asked=asked,
        target=steps[-1].name,
        steps=steps,
        version=__version__,
        host=socket.gethostname(),
        pid=os.getpid(),
        process=this_process(),
        started=time.time(),
    )


class Heartbeat:
    """The heartbeat of one run, from `start` to `stop`; `beat` returns the current activity of the driver."""

    def __init__(
        self, store: ObjectStore, record: RunRecord, beat: Callable[[], Beat], every: float = BEAT_SECONDS
    ) -> None:
        self.record, self._store, self._beat, self._every = record, store, beat, every
        self._wake, self._ended = threading.Event(), threading.Event()
        self._warned = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Writes the record and the first heartbeat, and starts the thread that writes the next ones."""
        self._write(record_key(self.record.id), self.record)
        self._write_beat()
        self._thread.start()

    def now(self) -> None:
        """Writes the next heartbeat immediately, because the driver's activity has changed."""
        self._wake.set()

    def stop(self, outcome: str) -> None:
        """Writes the outcome of the run, and removes the heartbeat."""
        self._ended.set()
        self._wake.set()
        self._thread.join(END_SECONDS)
        self._write(record_key(self.record.id), self.record.model_copy(update={"outcome": outcome}))
        with suppress(StoreError):
            self._store.delete(beat_key(self.record.id))

    def _run(self) -> None:
        while True:
            self._wake.wait(self._every)
            self._wake.clear()
            if self._ended.is_set():
                return
            self._write_beat()

    def _write_beat(self) -> None:
        beat = self._beat().model_copy(update={"written": time.time()})
        self._write(beat_key(self.record.id), beat)

    def _write(self, key: str, value: RunRecord | Beat) -> None:
        try:
            self._store.put(key, value.model_dump_json().encode())
        except Exception as error:
            if not self._warned:
                self._warned = True
                log.warning("could not write this run's heartbeat, so `status` may miss the run: %s", error)
