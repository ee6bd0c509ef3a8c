"""Workers' notes of attempts at parts that are not committed.

Only one listing and the newest notes are read: a step of 20,000 shards leaves one note per shard, and the
notes of committed shards are not needed. Times are those of the store's own clock.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from dgflow.runtime.training.notes import WITHIN, seconds_within
from dgflow.store.receipts import CorruptObject, parse_json
from dgflow.store.step_store import StepStore

NOTES = 1_000  # maximum number of notes read, newest first; a cluster has fewer workers

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """The latest attempt at a part, in progress or failed.

    Times are seconds since the epoch by the store's own clock.
    """

    part: int
    noted: float  # time of its start, its latest progress, or its failure
    note: dict[str, Any]

    @property
    def has_failed(self) -> bool:
        return "error" in self.note

    def under_way(self) -> dict[str, Any]:
        """Returns JSON data: `part`, `host`, `pid` and `started`; for an epoch also the current `step`, the
        number of `steps` and the mean `loss` so far."""
        known = {name: self.note.get(name) for name in ("host", "pid")}
        within = {name: self.note[name] for name in WITHIN if name in self.note}
        return {"part": self.part, **known, "started": self.noted - seconds_within(self.note), **within}

    def safe(self) -> dict[str, int] | None:
        """Returns JSON data about the newest checkpoint within an epoch: the epoch's number (`part`), the
        checkpoint's `step` and the number of `steps`. None without such a checkpoint."""
        if "safe" not in self.note or "steps" not in self.note:
            return None
        return {"part": self.part, "step": self.note["safe"], "steps": self.note["steps"]}

    def failure(self) -> dict[str, Any]:
        """Returns JSON data: `part`, `host`, `pid`, `failed`, `error`, `where` (`file.py:123 in function`)
        and `log` (a file on that host)."""
        known = {name: self.note.get(name) for name in ("host", "pid", "where", "log")}
        return {"part": self.part, "failed": self.noted, "error": str(self.note["error"]), **known}


def open_attempts(step_store: StepStore, folder: str, missing: Collection[int]) -> list[Attempt]:
    """Returns the latest attempts at the `missing` parts of a folder: at most `NOTES`, newest first.
    Unreadable notes are logged and left out."""
    missing = set(missing)
    noted = [(entry, part) for part, entry in step_store.noted(folder).items() if part in missing]
    newest = sorted(noted, key=lambda item: item[0].modified, reverse=True)[:NOTES]
    attempts = []
    try:
        notes = step_store.store.get_many([entry.key for entry, _ in newest])
    except FileNotFoundError as error:  # removed since it was listed
        _log.warning("could not read the attempts of %s %s: %s", step_store.name, folder, error)
        return []
    for (entry, part), data in zip(newest, notes, strict=True):
        try:
            attempts.append(Attempt(part, entry.modified, parse_json(data, entry.key, step_store.store.url)))
        except CorruptObject as error:
            _log.warning("could not read an attempt: %s", error)
    return attempts
