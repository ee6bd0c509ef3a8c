"""Writes the progress within an epoch to the note of the attempt at that epoch, on the first worker.

The note is a small object in the root, which gc removes once the epoch is committed. It is rewritten every
`NOTE_SECONDS`, so a long epoch shows its steps and loss at the cost of four requests per minute.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat

NOTE_SECONDS = 15.0
FIRST_SECONDS = 5.0  # from the start of an epoch to its first note
WITHIN = ("step", "steps", "loss", "safe")
"""The fields of a note: steps done, steps of the epoch, mean loss of the steps done, and if there is a
checkpoint within the epoch, the steps before it."""


class EpochNotes:
    """Notes the steps of one epoch by calling `write(fields)` periodically; with `write` None it does
    nothing."""

    def __init__(
        self,
        write: Callable[[Mapping[str, Any]], None] | None,
        steps: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write, self._steps, self._clock = write, steps, clock
        self._next = clock() + FIRST_SECONDS

    def step(self, done: int, total: SupportsFloat, weight: float = 1.0, safe: int = 0) -> None:
        """Records that `done` steps of the epoch are done, the first `safe` of which are in a checkpoint.
        `total` is the sum of their losses, each multiplied by `weight`."""
        if self._write is None or self._clock() < self._next:
            return
        self._next = self._clock() + NOTE_SECONDS
        mean = float(total) / weight / done
        fields = {"step": done, "steps": self._steps, "updated": time.time()}
        fields |= {"safe": safe} if safe > 0 else {}
        self._write(fields | ({"loss": mean} if math.isfinite(mean) else {}))


def within_epoch(note: Mapping[str, Any]) -> str:
    """Formats a note: `step 120 of 400, loss 0.1234, step 100 safe`."""
    loss, safe = note.get("loss"), note.get("safe")
    words = f"step {note['step']:,} of {note['steps']:,}" + ("" if loss is None else f", loss {loss:.4g}")
    return words if safe is None else f"{words}, step {safe:,} safe"


def seconds_within(note: Mapping[str, Any]) -> float:
    """Returns the seconds from the start of an attempt to its latest note, by the clock of the writing
    host."""
    started, updated = note.get("started"), note.get("updated")
    return max(0.0, updated - started) if started is not None and updated is not None else 0.0
