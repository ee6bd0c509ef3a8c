"""Removal of a step from a root, with every step that was made from it.

A step counts as made from another step if its description names that step, or if its receipts have the digest
of a result of that step. The second case is needed for a comparison: its description names samples, but it
reads the features and statistics of them.

Order of removal:

1. Steps that read other steps go before the steps that they read.
2. Within a step, manifests go first, then receipts, then data, and last its description.

So an interrupted removal leaves no record that names removed data. Repeat the removal, or run the recipe,
which rebuilds missing parts.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

from dgflow.store.address import step_names
from dgflow.store.local import LocalStore
from dgflow.store.objects import Entry, ObjectStore
from dgflow.store.receipts import CorruptObject, Manifest, Receipt, parse_record
from dgflow.store.runs import alive
from dgflow.store.step_store import read_step

_AT_ONCE = 16
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_RECEIPT = re.compile(r"[^/]+/([a-z]+)/(\d{5,})-([0-9a-f]{16})\.json")
_ORDER = ("manifests", "receipts", "attempts", "data", "step.json")


@dataclass(frozen=True)
class Doomed:
    """A step to be removed: its objects, and the other steps to be removed from which it was made."""

    step: str
    reads: tuple[str, ...]
    entries: tuple[Entry, ...]

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.entries)


def doomed(store: ObjectStore, name: str) -> list[Doomed]:
    """Returns the step and all steps that were made from it, in the order of their removal.

    Lists every step in the root, and reads descriptions, manifests and receipts. A missing or damaged record
    is treated as naming no step.
    """
    steps = {each: _Step.of(store, each) for each in step_names(store)}
    reads = {each: _read_by(step, steps) for each, step in steps.items()}
    taken = {name}
    while more := {each for each, inputs in reads.items() if inputs & taken} - taken:
        taken |= more
    order = TopologicalSorter({each: reads[each] & taken for each in sorted(taken)}).static_order()
    return [
        Doomed(each, tuple(sorted(reads[each] & taken)), steps[each].entries)
        for each in reversed(list(order))
    ]


def at_work(store: ObjectStore, steps: Sequence[Doomed]) -> list[str]:
    """Describes the runs in progress that need one of the steps, or that do not record which steps they
    need."""
    names = {each.step for each in steps}
    return [
        f"{driver.record.asked.recipe or 'a run'} on {driver.record.host}, pid {driver.record.pid}"
        for driver in alive(store)
        if not driver.record.steps or names & {step.name for step in driver.record.steps}
    ]


def remove(store: ObjectStore, steps: Sequence[Doomed]) -> None:
    """Removes the steps that `doomed` returned. Raises StoreError; objects removed by then stay removed."""
    for each in steps:
        for kind in _ORDER:
            keys = [entry.key for entry in each.entries if _kind(entry.key) == kind]
            with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="rm") as pool:
                list(pool.map(store.delete, keys))
        if isinstance(store, LocalStore):
            store.remove_empty(each.step)


def _kind(key: str) -> str:
    """Returns the element of `_ORDER` with which an object of a step is removed; unknown objects count as
    receipts."""
    folder = key.split("/", 2)[1]
    return folder if folder in _ORDER else "receipts"


@dataclass(frozen=True)
class _Step:
    """A step in a root: its objects, the prefixes of the fingerprints in its description, and the digests of
    its inputs and results."""

    name: str
    entries: tuple[Entry, ...]
    fingerprints: frozenset[str]
    inputs: frozenset[str]
    made: frozenset[str]

    @classmethod
    def of(cls, store: ObjectStore, name: str) -> _Step:
        entries, inputs, results = tuple(store.list(name)), set[str](), set[str]()
        for key in _distinct_records(entries):
            with contextlib.suppress(CorruptObject, FileNotFoundError):
                if _kind(key) == "manifests":
                    record = parse_record(Manifest, store.get(key), key, store.url)
                    results.add(record.digest)
                else:
                    record = parse_record(Receipt, store.get(key), key, store.url)
                    results.add(record.rows_sha256)
                inputs.update(record.inputs.values())
        try:
            document = (read_step(store, name) or {}).get("document")
        except CorruptObject:
            document = None
        prefixes = (text[:12] for text in _texts(document) if _FINGERPRINT.fullmatch(text))
        return cls(name, entries, frozenset(prefixes), frozenset(inputs), frozenset(results))


def _distinct_records(entries: Sequence[Entry]) -> list[str]:
    """Returns the keys of manifests and receipts that together name all inputs and results. Of shards made
    from the same inputs, one receipt suffices."""
    keys: dict[str, str] = {}
    for key in (entry.key for entry in entries):
        if match := _RECEIPT.fullmatch(key):
            alike = f"{match[1]}-{match[3]}" if match[1] in ("shards", "checkpoints") else key
            keys.setdefault(alike, key)
        elif _kind(key) == "manifests":
            keys[key] = key
    return list(keys.values())


def _read_by(step: _Step, steps: Mapping[str, _Step]) -> set[str]:
    """Returns the steps in the root that a step reads: those that its description names, and those that made
    an input that no named step made."""
    named = {each for each in steps if each.rpartition("-")[2] in step.fingerprints} - {step.name}
    others = step.inputs.difference(*(steps[each].made for each in named))
    return named | {each for each, other in steps.items() if other.made & others} - {step.name}


def _texts(value: Any) -> Iterator[str]:
    """Yields all strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
