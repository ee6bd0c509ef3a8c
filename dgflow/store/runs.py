"""The records of runs in a root: who asked for what, and the drivers' signs of life.

    runs/<id>.json        the record of a run: recipe, options, command, steps; rewritten once, at its end
    runs/<id>.alive.json  the driver's sign of life, rewritten every `BEAT_SECONDS` and removed at its end

A run writes its record when it finds something to do; one that only reuses leaves nothing. All of it is
advisory: no step is identified by it, nothing is committed by it, and a root of before has none. Ages are
judged by the store's own clock, and a driver on this very host by its process too.
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
STALE_SECONDS = 90.0  # of a sign of life: several in a row did not come
_RECORD = re.compile(rf"{FOLDER}/([0-9a-z-]+)\.json")
_BEAT = re.compile(rf"{FOLDER}/([0-9a-z-]+)\.alive\.json")

log = logging.getLogger(__name__)


class _Advisory(BaseModel):
    """Frozen; fields of later versions are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Asked(_Advisory):
    """The command that a person gave."""

    recipe: str = ""  # its name, such as `digits`; `dgflow metrics`
    file: str | None = None  # of the recipe, without its folder
    about: str = ""  # the recipe's docstring
    options: dict[str, Any] = {}  # all options of the recipe, with their values
    changed: tuple[str, ...] = ()  # the names of options that have another value than their default
    command: tuple[str, ...] = ()  # as given, without secrets
    commit: str | None = None  # of git where the recipe lies; ends in `-dirty` where files differ from it

    @property
    def headline(self) -> str:
        """The first sentence of the docstring, or its first line."""
        paragraph = " ".join(self.about.strip().partition("\n\n")[0].split())
        return re.split(r"(?<=[.!?])\s", paragraph, maxsplit=1)[0]

    @property
    def short_commit(self) -> str:
        """The first twelve digits of the commit, and `-dirty` where files differ from it."""
        digits, *dirty = (self.commit or "").split("-", 1)
        return "-".join([digits[:12], *dirty])

    @property
    def given(self) -> str:
        """The options that differ from their defaults, as on a command line; empty where none does."""
        values = ((name, self.options.get(name)) for name in self.changed)
        return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in values)


class RunStep(_Advisory):
    """A step of a run, with the ranges of parts that the run asks for."""

    name: str  # of its folder in the root
    title: str
    kind: str
    folder: str  # that holds the receipts of its parts
    unit: str
    wanted: tuple[tuple[int, int], ...]  # [start, stop) each

    @property
    def parts(self) -> list[int]:
        return [number for start, stop in self.wanted for number in range(start, stop)]


class RunRecord(_Advisory):
    """One run of a recipe in a root."""

    id: str
    asked: Asked = Asked()
    target: str  # name of the last step
    steps: tuple[RunStep, ...]
    version: str  # of dgflow
    host: str
    pid: int
    process: Process | None = None
    started: float  # seconds since the epoch by the driver's clock
    outcome: str | None = None  # `done`, `interrupted`, `failed: ...`; None for a run that has not ended

    @property
    def goal(self) -> str:
        """Equal for runs that ask for the same: the last step, with the parts of it that are wanted."""
        return goal(self.target, self.steps[-1].wanted if self.steps else ())


class Beat(_Advisory):
    """A driver's sign of life: what it does now."""

    step: str | None = None  # name of the step that it works on; None between steps
    title: str = ""
    number: int = 0  # of that step, from 1
    of: int = 0  # steps of the run
    done: int = 0  # parts of the step
    wanted: int = 0
    unit: str = ""
    does: str = ""  # the last thing it told, such as `training with 2 workers`
    step_seconds: float = 0.0  # since it began with the step
    step_left: float | None = None  # seconds of the step that are left, None where unknown
    run_left: float | None = None  # and of all steps that have been timed
    untimed: int = 0  # steps still to do that have not been timed
    written: float = 0.0  # by the driver's clock


@dataclass(frozen=True)
class Driver:
    """A driver that has left a sign of life and not removed it: it is at work, or it was ended hard."""

    record: RunRecord
    beat: Beat
    seen: float  # when the sign was written, by the store's own clock
    silent: float  # seconds since
    alive: bool


def goal(target: str, wanted: Sequence[tuple[int, int]]) -> str:
    """See `RunRecord.goal`."""
    return " ".join([target, *(f"{start}-{stop}" for start, stop in wanted)])


def new_id() -> str:
    """The id of a run that starts now; ids sort by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


def record_key(run: str) -> str:
    return f"{FOLDER}/{run}.json"


def beat_key(run: str) -> str:
    return f"{FOLDER}/{run}.alive.json"


def records(store: ObjectStore) -> list[RunRecord]:
    """The records of all runs, oldest first: one listing, and a read of each. Unreadable ones are left
    out."""
    listed = store.list(FOLDER)
    found = _read(store, [entry for entry in listed if _RECORD.fullmatch(entry.key)], RunRecord)
    return sorted(found.values(), key=lambda record: record.id)


def newest(store: ObjectStore, target: str) -> RunRecord | None:
    """The record of the latest run whose last step has this name; None where there is none."""
    return next((record for record in reversed(records(store)) if record.target == target), None)


def drivers(store: ObjectStore, now: float | None = None) -> list[Driver]:
    """The drivers that have not ended cleanly, oldest first, judged at `now` by the store's clock."""
    beats = [entry for entry in store.list(FOLDER) if _BEAT.fullmatch(entry.key)]
    if not beats:
        return []
    moment = store.now() if now is None else now
    found: list[Driver] = []
    signs = _read(store, beats, Beat)
    keys = {entry.key: record_key(_id(entry.key)) for entry in beats}
    known = _read(store, [Entry(key, 0, 0.0) for key in keys.values()], RunRecord)
    for entry in beats:
        record = known.get(keys[entry.key]) or _unknown(_id(entry.key))
        silent = max(0.0, moment - entry.modified)
        ended = None if record.process is None else has_ended(record.process)
        alive = not ended and (ended is False or silent < STALE_SECONDS)
        found.append(Driver(record, signs.get(entry.key, Beat()), entry.modified, silent, alive))
    return sorted(found, key=lambda driver: driver.record.id)


def alive(store: ObjectStore, now: float | None = None) -> list[Driver]:
    """The drivers that are at work in a root now."""
    return [driver for driver in drivers(store, now) if driver.alive]


def abandoned(store: ObjectStore, before: float) -> list[Entry]:
    """The signs of life written before that time, by the store's own clock."""
    listed = store.list(FOLDER)
    return [entry for entry in listed if _BEAT.fullmatch(entry.key) and entry.modified < before]


def ranges(numbers: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """The numbers as ranges [start, stop) in order: 0, 1, 2, 7 -> (0, 3), (7, 8)."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number:
            found[-1][1] = number + 1
        else:
            found.append([number, number + 1])
    return tuple((start, stop) for start, stop in found)


def without_secrets(words: Sequence[str]) -> tuple[str, ...]:
    """A command's words, with what stands before an `@` or behind a `?` of a url left out."""
    hidden = (re.sub(r"(?<=://)[^/\s@]*@", "...@", word) for word in words)
    return tuple(re.sub(r"(://[^\s?]*)\?.*", r"\1?...", word) for word in hidden)


def _unknown(run: str) -> RunRecord:
    """In the place of a record that is missing or unreadable."""
    return RunRecord(
        id=run, target="", steps=(), version="unknown", host="an unknown host", pid=0, started=0.0
    )


def _id(key: str) -> str:
    match = _BEAT.fullmatch(key)
    assert match is not None, key
    return match[1]


_Kind = TypeVar("_Kind", RunRecord, Beat)


def _read(store: ObjectStore, entries: Sequence[Entry], kind: type[_Kind]) -> Mapping[str, _Kind]:
    """The records that can be read, by key."""
    found: dict[str, _Kind] = {}
    keys = [entry.key for entry in entries]
    try:
        texts: Sequence[bytes | None] = store.get_many(keys)
    except FileNotFoundError:  # one was removed since it was listed
        texts = [_text(store, key) for key in keys]
    for key, text in zip(keys, texts, strict=True):
        if text is None:
            continue
        try:
            found[key] = kind.model_validate_json(text)
        except ValidationError as error:
            log.warning("could not read %s in %s: %s", key, store.url, shortened(error))
    return found


def _text(store: ObjectStore, key: str) -> bytes | None:
    try:
        return store.get(key)
    except (FileNotFoundError, StoreError):
        return None
