"""Records of the runs in a root: what each was asked for, and the drivers' heartbeats.

    runs/<id>.json        the record of a run: recipe, options, command, steps; rewritten once, at its end
    runs/<id>.alive.json  the driver's heartbeat, rewritten every `BEAT_SECONDS` and removed at its end

A run writes its record once it finds something to do; a run that only reuses results writes none. The records
are advisory: they neither identify steps nor commit results, and roots of earlier versions have none. Ages
are judged by the store's clock, and a driver on this host also by its process.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from dgflow.store.objects import Entry, ObjectStore, StoreError
from dgflow.store.processes import Process, has_ended
from dgflow.store.validation import shortened

FOLDER = "runs"
BEAT_SECONDS = 20.0
STALE_SECONDS = 90.0  # age of a heartbeat at which several in a row are missing
_RECORD = re.compile(rf"{FOLDER}/([0-9a-z-]+)\.json")
_BEAT = re.compile(rf"{FOLDER}/([0-9a-z-]+)\.alive\.json")

log = logging.getLogger(__name__)


class _Advisory(BaseModel):
    """A frozen record that ignores unknown fields, which later versions may write."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Asked(_Advisory):
    """The command that a user gave."""

    recipe: str = ""  # the recipe's name, such as `digits`, or `dgflow metrics`
    file: str | None = None  # file name of the recipe, without its folder
    about: str = ""  # the recipe's docstring
    options: dict[str, Any] = {}  # all options of the recipe, with their values
    changed: tuple[str, ...] = ()  # names of the options that differ from their defaults
    command: tuple[str, ...] = ()  # as given, without secrets
    commit: str | None = None  # git commit of the recipe's folder; ends in `-dirty` if files differ from it

    @property
    def headline(self) -> str:
        """The first sentence of the docstring, or its first line."""
        paragraph = " ".join(self.about.strip().partition("\n\n")[0].split())
        return re.split(r"(?<=[.!?])\s", paragraph, maxsplit=1)[0]

    @property
    def short_commit(self) -> str:
        """The first twelve digits of the commit, with `-dirty` if files differ from it."""
        digits, *dirty = (self.commit or "").split("-", 1)
        return "-".join([digits[:12], *dirty])

    @property
    def given(self) -> str:
        """The options that differ from their defaults, as on a command line; empty if none does."""
        values = ((name, self.options.get(name)) for name in self.changed)
        return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in values)


class RunStep(_Advisory):
    """A step of a run, with the ranges of parts that the run needs."""

    name: str  # name of its folder in the root
    title: str
    kind: str
    folder: str  # folder of the receipts of its parts
    unit: str
    wanted: tuple[tuple[int, int], ...]  # ranges [start, stop) of parts

    @property
    def parts(self) -> list[int]:
        return [number for start, stop in self.wanted for number in range(start, stop)]


class RunRecord(_Advisory):
    """One run of a recipe in a root."""

    id: str
    asked: Asked = Asked()
    target: str  # name of the recipe's last step
    steps: tuple[RunStep, ...]
    version: str  # version of dgflow
    host: str
    pid: int
    process: Process | None = None
    started: float  # seconds since the epoch, by the driver's clock
    outcome: str | None = None  # `done`, `interrupted`, `failed: ...`; None if the run has not ended

    @property
    def goal(self) -> str:
        """The last step with its wanted parts: equal for runs that ask for the same."""
        return goal(self.target, self.steps[-1].wanted if self.steps else ())


class Beat(_Advisory):
    """A driver's heartbeat: its current work."""

    step: str | None = None  # name of the current step; None between steps
    title: str = ""
    number: int = 0  # number of the current step, from 1
    of: int = 0  # number of steps of the run
    done: int = 0  # finished parts of the step
    wanted: int = 0
    unit: str = ""
    does: str = ""  # the latest message, such as `training with 2 workers`
    step_seconds: float = 0.0  # seconds since the step began
    step_left: float | None = None  # estimated seconds left for the step; None if unknown
    run_left: float | None = None  # estimated seconds left for all steps that have been timed
    untimed: int = 0  # number of remaining steps that have not been timed
    written: float = 0.0  # time of writing, by the driver's clock


@dataclass(frozen=True)
class Driver:
    """A driver whose heartbeat is still in the root: it is running, or it was killed."""

    record: RunRecord
    beat: Beat
    seen: float  # time of the heartbeat, by the store's clock
    silent: float  # seconds since the heartbeat
    alive: bool


def goal(target: str, wanted: Sequence[tuple[int, int]]) -> str:
    """The goal of a run, see `RunRecord.goal`."""
    return " ".join([target, *(f"{start}-{stop}" for start, stop in wanted)])


def new_id() -> str:
    """Make the id of a run that starts now; ids sort by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


def record_key(run: str) -> str:
    return f"{FOLDER}/{run}.json"


def beat_key(run: str) -> str:
    return f"{FOLDER}/{run}.alive.json"


def records(store: ObjectStore) -> list[RunRecord]:
    """Read the records of all runs, oldest first: one listing, and one read per record. Unreadable records
    are skipped.
    """
    listed = store.list(FOLDER)
    by_key = _read(store, [entry for entry in listed if _RECORD.fullmatch(entry.key)], RunRecord)
    return sorted(by_key.values(), key=lambda record: record.id)


def newest(store: ObjectStore, target: str) -> RunRecord | None:
    """The record of the latest run whose last step has this name; None if there is none."""
    return next((record for record in reversed(records(store)) if record.target == target), None)


def drivers(store: ObjectStore, now: float | None = None) -> list[Driver]:
    """The drivers that have not ended cleanly, oldest first; `now` is a time of the store's clock."""
    beats = [entry for entry in store.list(FOLDER) if _BEAT.fullmatch(entry.key)]
    if not beats:
        return []
    moment = store.now() if now is None else now
    result: list[Driver] = []
    contents = _read(store, beats, Beat)
    keys = {entry.key: record_key(_id(entry.key)) for entry in beats}
    records_by_key = _read(store, [Entry(key, 0, 0.0) for key in keys.values()], RunRecord)
    for entry in beats:
        record = records_by_key.get(keys[entry.key]) or _unknown(_id(entry.key))
        silent = max(0.0, moment - entry.modified)
        ended = None if record.process is None else has_ended(record.process)
        alive = not ended and (ended is False or silent < STALE_SECONDS)
        result.append(Driver(record, contents.get(entry.key, Beat()), entry.modified, silent, alive))
    return sorted(result, key=lambda driver: driver.record.id)


def alive(store: ObjectStore, now: float | None = None) -> list[Driver]:
    """The drivers that are running in a root now."""
    return [driver for driver in drivers(store, now) if driver.alive]


def abandoned(store: ObjectStore, before: float) -> list[Entry]:
    """The heartbeats written before the time `before` of the store's clock."""
    listed = store.list(FOLDER)
    return [entry for entry in listed if _BEAT.fullmatch(entry.key) and entry.modified < before]


def ranges(numbers: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Join numbers into ranges [start, stop), in order: 0, 1, 2, 7 -> (0, 3), (7, 8)."""
    result: list[list[int]] = []
    for number in sorted(numbers):
        if result and result[-1][1] == number:
            result[-1][1] = number + 1
        else:
            result.append([number, number + 1])
    return tuple((start, stop) for start, stop in result)


def without_secrets(words: Sequence[str]) -> tuple[str, ...]:
    """Remove the part of a url before an `@` or after a `?` from a command's words."""
    hidden = (re.sub(r"(?<=://)[^/\s@]*@", "...@", word) for word in words)
    return tuple(re.sub(r"(://[^\s?]*)\?.*", r"\1?...", word) for word in hidden)


def _unknown(run: str) -> RunRecord:
    """A substitute for a record that is missing or unreadable."""
    return RunRecord(
        id=run, target="", steps=(), version="unknown", host="an unknown host", pid=0, started=0.0
    )


def _id(key: str) -> str:
    match = _BEAT.fullmatch(key)
    assert match is not None, key
    return match[1]


_Kind = TypeVar("_Kind", RunRecord, Beat)


def _read(store: ObjectStore, entries: Sequence[Entry], kind: type[_Kind]) -> Mapping[str, _Kind]:
    """Read the records of a kind, by key; unreadable ones are skipped."""
    by_key: dict[str, _Kind] = {}
    keys = [entry.key for entry in entries]
    try:
        texts: Sequence[bytes | None] = store.get_many(keys)
    except FileNotFoundError:  # an object was removed after the listing
        texts = [_text(store, key) for key in keys]
    for key, text in zip(keys, texts, strict=True):
        if text is None:
            continue
        try:
            by_key[key] = kind.model_validate_json(text)
        except ValidationError as error:
            log.warning("could not read %s in %s: %s", key, store.url, shortened(error))
    return by_key


def _text(store: ObjectStore, key: str) -> bytes | None:
    try:
        return store.get(key)
    except (FileNotFoundError, StoreError):
        return None
