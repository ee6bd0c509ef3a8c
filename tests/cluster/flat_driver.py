"""A driver whose memory is measured: `flat_driver.py ROOT SHARDS EVERY` makes empty shards with two workers
and its own Ray.

Prints a JSON line whenever that many more shards are done, and one after all are sealed: `done`; `seconds`
since the first result; the memory that this process, and the largest of its workers, holds for itself, in
bytes; and `cpu`, the seconds of CPU that this process took.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import flat_steps  # pyright: ignore[reportMissingImports]
from listening import family

from dgflow.engine.execute import execute
from dgflow.runtime.placement import Placement
from dgflow.runtime.progress import Advance, Progress
from dgflow.specs.step import Step
from dgflow.store.open import open_store


class Watch(Progress):
    """Progress that also measures, and prints nothing."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every, self.done, self.began = every, 0, 0.0

    def say(self, line: str) -> None:
        pass

    @contextmanager
    def step(self, step: Step, *, total: int, done: int, earlier: Sequence[float] = ()) -> Iterator[Advance]:
        with super().step(step, total=total, done=done, earlier=earlier) as advance:

            def both(count: int, seconds: float | None = None) -> None:
                advance(count, seconds)
                if step.folder != "shards":
                    return
                self.began = self.began or time.monotonic()
                self.done += count
                if self.done % self.every == 0:
                    self.measure()

            yield both

    def measure(self) -> None:
        print(
            json.dumps(
                {
                    "done": self.done,
                    "seconds": time.monotonic() - self.began,
                    "driver": own_memory(os.getpid()),
                    "worker": max(map(own_memory, workers()), default=0),
                    "cpu": time.process_time(),
                }
            ),
            flush=True,
        )


def own_memory(pid: int) -> int:
    """Returns the resident bytes that belong to no file and no other process: `RssAnon`; 0 for a process that
    has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def workers() -> list[int]:
    """Returns our Ray's worker processes that work in a pool."""
    return [
        pid
        for pid in family(os.getpid())
        if (name := command(pid)).startswith(b"ray::") and not name.startswith(b"ray::IDLE")
    ]


def command(pid: int) -> bytes:
    """Returns the title of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    root, shards, every = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    watch = Watch(every)
    execute(flat_steps.target(shards), open_store(root), Placement(workers=2), watch)
    watch.measure()
