"""Workers as local processes, without Ray.

Each worker is a new Python process, not a fork, because torch's threads do not survive a fork. A socket pair
connects it with the driver. The death of a worker closes the connection, so it is detected immediately. A
worker exits as soon as the driver's end is closed, even if the driver was killed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, BinaryIO

import cloudpickle

from dgflow.runtime.machine import ALLOCATOR, cpus, gpus
from dgflow.runtime.pool.fleet import End, Room, Work

PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    "from dgflow.runtime.pool.process_worker import main; main(int(sys.argv[2]))"
)
END_SECONDS = 5.0  # timeout for a process that has closed its connection


class WorkerDied(RuntimeError):
    """Raised if a worker's process has ended."""


@dataclass(eq=False)
class ProcessCall:
    worker: ProcessWorker
    number: int
    end: End | None = None


class ProcessWorker:
    """The driver's side of one process."""

    def __init__(self, place: str) -> None:
        """Starts the process with `place` as its CUDA_VISIBLE_DEVICES; empty for no GPU."""
        self.place = place
        self._log: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 (`stop` closes it)
        # One thread each, as in Ray's workers.
        environment = {"OMP_NUM_THREADS": "1"} | ALLOCATOR | os.environ | {"CUDA_VISIBLE_DEVICES": place}
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, json.dumps(sys.path), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C interrupts only the driver
            )
        self.connection = Connection(ours.detach())
        self._calls: dict[int, ProcessCall] = {}
        self._count = 0
        self.ready = self._expect()  # ended by the worker's first message

    def submit(self, job: int, path: Path, item: Any) -> ProcessCall:
        call = self._expect()
        self._send((call.number, job, str(path), item))
        return call

    def cancel(self, call: ProcessCall) -> None:
        self._send((call.number,))

    def receive(self) -> None:
        """Receives the next message, which ends one call. If the process has died, all its calls end."""
        try:
            number, what, value = self.connection.recv()
        except (EOFError, OSError):
            error = WorkerDied(self._obituary())
            for call in self._calls.values():
                call.end = End(error=error, died=True)
            self._calls.clear()
            return
        ends = {"value": End(value=value), "error": End(error=value), "cancelled": End(cancelled=True)}
        self._calls.pop(number).end = ends[what]

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self.connection.close()
        self._log.close()

    def _expect(self) -> ProcessCall:
        call = self._calls[self._count] = ProcessCall(self, self._count)
        self._count += 1
        return call

    def _send(self, message: tuple[Any, ...]) -> None:
        with suppress(OSError):  # it has died, which `receive` reports
            self.connection.send(message)

    def _obituary(self) -> str:
        try:
            status = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            status = f"unknown: it closed its connection but still runs after {END_SECONDS:g} s"
        how = f"exited with status {status}"
        if isinstance(status, int) and status < 0:
            how = f"was ended by {signal.Signals(-status).name}"
        if status == -signal.SIGKILL:
            how += ", probably by the system for lack of memory"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"the worker's process {self._process.pid} {how}" + (f": {lines[-1]}" if lines else "")


class ProcessFleet:
    """Processes that have `num_gpus` GPUs each, or a CPU and no GPU if that is 0."""

    elastic = False

    def __init__(self, num_gpus: float) -> None:
        self.needs = f"{num_gpus:g} GPU" if num_gpus else "1 CPU"
        self._places = places(num_gpus)
        self._free = list(reversed(self._places))
        self._folder = tempfile.TemporaryDirectory(prefix="dgflow-")
        self._jobs = 0

    def clock(self) -> float:
        return time.monotonic()

    def load(self, make: Callable[[], Work]) -> tuple[int, Path]:
        """Writes the function to a file: workers read it once, and items stay small messages."""
        self._jobs += 1
        path = Path(self._folder.name) / str(self._jobs)
        path.write_bytes(cloudpickle.dumps(make))
        return self._jobs, path

    def start(self, avoid: Collection[str]) -> tuple[ProcessWorker, ProcessCall]:
        worker = ProcessWorker(self._free.pop())
        return worker, worker.ready

    def submit(self, worker: ProcessWorker, loaded: tuple[int, Path], item: Any, name: str) -> ProcessCall:
        return worker.submit(*loaded, item)

    def cancel(self, call: ProcessCall) -> None:
        call.worker.cancel(call)

    def wait(self, calls: list[ProcessCall], seconds: float) -> list[ProcessCall]:
        if not calls:
            time.sleep(seconds)
        deadline = self.clock() + seconds
        while not (ended := [call for call in calls if call.end is not None]):
            workers = {call.worker for call in calls}
            ready = wait([worker.connection for worker in workers], max(0.0, deadline - self.clock()))
            if not ready:
                return []
            for worker in workers:
                if worker.connection in ready:
                    worker.receive()
        return ended

    def end(self, call: ProcessCall) -> End:
        assert call.end is not None, "a call that `wait` has not returned"
        return call.end

    def stop(self, worker: ProcessWorker) -> None:
        worker.stop()
        self._free.append(worker.place)

    def hosts(self) -> dict[str, str]:
        return {socket.gethostname(): socket.gethostname()}

    def room(self) -> Room:
        return Room(len(self._places), len(self._places))


def places(num_gpus: float) -> list[str]:
    """Returns the `CUDA_VISIBLE_DEVICES` of each worker that fits on this machine; at least one."""
    if not num_gpus:
        return [""] * cpus()
    names = gpus()
    if num_gpus < 1:
        return [name for name in names for _ in range(int(1 / num_gpus))]
    each = int(num_gpus)
    return [",".join(names[start : start + each]) for start in range(0, len(names) - each + 1, each)]
