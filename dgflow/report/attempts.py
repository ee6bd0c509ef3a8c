"""What workers noted of their attempts at parts that are not committed, by the store's own clock.

Reads one listing and the newest notes alone: a step of 20,000 shards leaves a note of each, and those of
    committed shards tell nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from dgflow.store.receipts import CorruptObject, parse_json
from dgflow.store.step_store import StepStore

NOTES = 1_000  # newest notes that are read: more than the workers of a cluster

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """The latest attempt at a part, under way or failed.

    Times are seconds since the epoch by the store's own clock.
    """

    part: int
    noted: float  # when it began, or failed
    note: dict[str, Any]

    @property
    def has_failed(self) -> bool:
        return "error" in self.note

    def under_way(self) -> dict[str, Any]:
        """As JSON data: `part`, `host`, `pid`, `started`."""
        return {
            "part": self.part,
            "host": self.note.get("host"),
            "pid": self.note.get("pid"),
            "started": self.noted,
        }

    def failure(self) -> dict[str, Any]:
        """As JSON data: `part`, `host`, `pid`, `failed`, `error`, `where` (`file.py:123 in function`) and
        `log` (a file on that host)."""
        known = {name: self.note.get(name) for name in ("host", "pid", "where", "log")}
        return {"part": self.part, "failed": self.noted, "error": str(self.note["error"]), **known}


def open_attempts(steps: StepStore, folder: str, missing: Collection[int]) -> list[Attempt]:
    """The latest attempt at each of the `missing` parts of a folder, newest first, of the newest `NOTES`;
    unreadable ones are left out."""
    missing = set(missing)
    noted = [(entry, part) for part, entry in steps.noted(folder).items() if part in missing]
    newest = sorted(noted, key=lambda item: item[0].modified, reverse=True)[:NOTES]
    found = []
    try:
        notes = steps.store.get_many([entry.key for entry, _ in newest])
    except FileNotFoundError as error:  # removed since it was listed
        _log.warning("could not read the attempts of %s %s: %s", steps.name, folder, error)
        return []
    for (entry, part), data in zip(newest, notes, strict=True):
        try:
            found.append(Attempt(part, entry.modified, parse_json(data, entry.key, steps.store.url)))
        except CorruptObject as error:
            _log.warning("could not read an attempt: %s", error)
    return found
