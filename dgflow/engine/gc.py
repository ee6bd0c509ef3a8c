"""Garbage collection: removes data objects that no receipt commits, notes of attempts at committed parts,
previews, and the heartbeats of killed drivers.

A worker leaves data without a receipt if it dies between the two writes, or if another attempt commits other
bytes first. Such data is deleted only if it is older than a week by the store's own clock, its step has a
valid description, and no receipt or manifest names it. Incomplete multipart uploads in S3 are not objects; a
lifecycle rule of the bucket (AbortIncompleteMultipartUpload) removes them.

A run may be in progress during a collection. Its data is too recent to be deleted, with one exception: a
worker that produces exactly the bytes of an old orphan overwrites the orphan and creates the receipt. No
order of listings is safe then, and S3 has no conditional delete. Therefore whoever acts last restores the
data:

- The collector keeps the bytes until a listing after the delete shows that no receipt has appeared. If a
  receipt names the data by then, the collector restores it.
- `StepStore.commit`, if it overwrote an object, checks after creating the receipt that the data still exists.
- Data too large for memory is deleted immediately after such a listing, if the listing shows the same age as
  before.

Run one gc at a time. A gc that is killed between a delete and its listing may leave a receipt without data,
which `verify --repair` repairs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from dgflow.store.address import steps_among
from dgflow.store.objects import Entry, ObjectStore
from dgflow.store.receipts import CorruptObject, Manifest, parse_record
from dgflow.store.runs import FOLDER, abandoned
from dgflow.store.step_store import StepStore, read_step

AGE = 7 * 86_400.0  # seconds, by the store's own clock
KEPT = 256 * 2**20  # bytes held in memory until a listing shows that no receipt names them
_AT_ONCE = 16

_DATA = re.compile(r"data/(?:([a-z]+)-)?(\d{5,})-[0-9a-f]{16}\.[a-z0-9.]+")
_RECEIPT = re.compile(r"([a-z]+)/(\d{5,})-[0-9a-f]{16}\.json")
_NOTE = re.compile(r"attempts/([a-z]+)-(\d{5,})\.json")
_PREVIEW = "attempts/preview.png"

Part = tuple[str, int]  # folder and number, such as ("shards", 42)


@dataclass(frozen=True)
class Garbage:
    """The garbage of one step; for the folder of runs, the heartbeats of drivers that have ended."""

    step: str
    data: list[Entry]
    notes: list[Entry]

    @property
    def number(self) -> int:
        return len(self.data) + len(self.notes)

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in (*self.data, *self.notes))


@dataclass
class Collected:
    """The garbage that was found, and removed if `deleted`.

    `left` gives the reason for each folder that was not touched. `restored` gives the keys of data that a run
    committed during the collection.
    """

    deleted: bool
    steps: list[Garbage] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)

    @property
    def number(self) -> int:
        return sum(garbage.number for garbage in self.steps) - len(self.restored)

    @property
    def bytes(self) -> int:
        return sum(garbage.bytes for garbage in self.steps)


def collect(store: ObjectStore, *, delete: bool, tell: Callable[[str], None]) -> Collected:
    """Finds the garbage in every step of a root, and removes it if `delete`.

    Takes one listing per step and one more per `KEPT` bytes removed. Reads only the receipts of parts that
    have more data objects than receipts; an orphan of a part whose own data was lost is therefore kept.
    Raises StoreError.
    """
    collected, now, names = Collected(delete), store.now(), store.names()
    for name in steps_among(names):
        try:
            step_store = _opened(store, name)
            listing = _Listing.of(step_store)
            data, notes = listing.unnamed(now - AGE), listing.spent_notes(now - AGE)
            garbage = Garbage(name, list(data), list(notes))
        except (CorruptObject, FileNotFoundError) as error:
            collected.left.append(f"{name}: {error}")
            continue
        if garbage.number:
            collected.steps.append(garbage)
            tell(
                f"{name}: {len(garbage.data):,} data objects and {len(garbage.notes):,} notes, "
                f"{garbage.bytes / 1e6:,.1f} MB"
            )
            if delete:
                collected.restored += _remove(listing, garbage)
    if FOLDER in names and (beats := abandoned(store, now - AGE)):
        collected.steps.append(Garbage(FOLDER, [], beats))
        tell(f"{FOLDER}: {len(beats):,} heartbeats of drivers that were killed")
        if delete:
            _delete(store, [entry.key for entry in beats])
    return collected


def _opened(store: ObjectStore, name: str) -> StepStore:
    """Returns the step of a folder. Raises CorruptObject if its description is missing or belongs to another
    step."""
    recorded = read_step(store, name)
    if recorded is None:
        raise CorruptObject(
            "it has no step.json, so its content is unknown; run its recipe again, or remove it by hand"
        )
    kind, _, digits = name.rpartition("-")
    fingerprint = recorded.get("fingerprint")
    if not isinstance(fingerprint, str) or not re.fullmatch(rf"{digits}[0-9a-f]{{52}}", fingerprint):
        raise CorruptObject("its step.json is that of another step; see `verify`")
    return StepStore(store, kind, fingerprint)


@dataclass(frozen=True)
class _Listing:
    """The objects of a step at one moment."""

    step_store: StepStore
    data: dict[Part, list[Entry]]
    receipts: dict[Part, list[Entry]]
    notes: dict[Part, Entry]
    manifests: list[str]
    previews: list[Entry]

    @classmethod
    def of(cls, step_store: StepStore) -> _Listing:
        listing = cls(step_store, {}, {}, {}, [], [])
        for entry in step_store.store.list(step_store.name):
            key = entry.key.removeprefix(f"{step_store.name}/")
            if match := _DATA.fullmatch(key):
                listing.data.setdefault((match[1] or "shards", int(match[2])), []).append(entry)
            elif match := _NOTE.fullmatch(key):
                listing.notes[match[1], int(match[2])] = entry
            elif key == _PREVIEW:
                listing.previews.append(entry)
            elif key.startswith("manifests/"):
                listing.manifests.append(entry.key)
            elif match := _RECEIPT.fullmatch(key):
                listing.receipts.setdefault((match[1], int(match[2])), []).append(entry)
        return listing

    def unnamed(self, before: float) -> Iterator[Entry]:
        """Yields the data that was last written before that time and that no record names.

        Raises CorruptObject if a record cannot be read.
        """
        surplus = {
            part: entries
            for part, entries in self.data.items()
            if len(entries) > len(self.receipts.get(part, []))
        }
        old = [entry for entries in surplus.values() for entry in entries if entry.modified < before]
        if old:
            named = self.named(surplus) | self._sealed()
            yield from (entry for entry in old if entry.key not in named)

    def named(self, parts: Iterable[Part], since: _Listing | None = None) -> set[str]:
        """Returns the keys of the data that the receipts of some parts name; with `since`, only of receipts
        that this earlier listing lacks."""
        earlier = {entry.key for part in parts for entry in since.receipts.get(part, [])} if since else set()
        keys = [
            entry.key for part in parts for entry in self.receipts.get(part, []) if entry.key not in earlier
        ]
        return {receipt.key for receipt in self.step_store.receipts(keys)}

    def spent_notes(self, before: float) -> Iterator[Entry]:
        """Yields the notes written before that time and before a commit of their part, and previews of
        samples whose shard is committed."""
        for part, note in self.notes.items():
            if note.modified < before and any(
                receipt.modified >= note.modified for receipt in self.receipts.get(part, [])
            ):
                yield note
        if any(folder == "shards" for folder, _ in self.receipts):
            yield from (entry for entry in self.previews if entry.modified < before)

    def _sealed(self) -> set[str]:
        store = self.step_store.store
        texts = zip(self.manifests, store.get_many(self.manifests), strict=True)
        return {
            entry.key for key, text in texts for entry in parse_record(Manifest, text, key, store.url).entries
        }


def _remove(listing: _Listing, garbage: Garbage) -> list[str]:
    """Removes the garbage; returns the keys of data that had to be restored."""
    store = listing.step_store.store
    _delete(store, [entry.key for entry in garbage.notes])
    restored: list[str] = []
    small = [entry for entry in garbage.data if entry.bytes <= KEPT]
    for taken in _rounds(small):
        restored += _removed_with_care(listing, taken)
    large = {entry.key: entry for entry in garbage.data if entry.bytes > KEPT}
    if large:
        now = _Listing.of(listing.step_store)
        listed = {entry.key: entry for entries in now.data.values() for entry in entries}
        named = now.named(now.data, since=listing)
        _delete(store, [key for key, entry in large.items() if listed.get(key) == entry and key not in named])
    return restored


def _removed_with_care(listing: _Listing, taken: Sequence[Entry]) -> list[str]:
    """Deletes data, lists the new receipts, and restores the data that they name; returns its keys."""
    store = listing.step_store.store
    kept = dict(
        zip([entry.key for entry in taken], store.get_many([entry.key for entry in taken]), strict=True)
    )
    needed = set(kept)  # until a listing shows otherwise: an interruption restores everything
    try:
        _delete(store, list(kept))
        now = _Listing.of(listing.step_store)
        needed = now.named(now.receipts, since=listing) & set(kept)
    finally:
        for key in sorted(needed):
            if store.size(key) is None:
                store.put(key, kept[key])
    return sorted(needed)


def _rounds(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Yields all entries, in groups of at most `KEPT` bytes."""
    group: list[Entry] = []
    for entry in entries:
        if group and sum(each.bytes for each in group) + entry.bytes > KEPT:
            yield group
            group = []
        group.append(entry)
    if group:
        yield group


def _delete(store: ObjectStore, keys: Sequence[str]) -> None:
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="gc") as pool:
        list(pool.map(store.delete, keys))
