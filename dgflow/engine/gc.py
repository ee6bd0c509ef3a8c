"""Removing what nothing names: data objects that no receipt commits, and notes of attempts at parts that are
committed.

Such data is left by workers that died between a put and its receipt, and by those that lost a race with other
bytes. Only what is older than a week by the store's own clock is taken, only in folders of steps that say
what they are, and nothing that a receipt or a manifest names. Half-done multipart uploads of S3 are no
objects: a lifecycle rule of the bucket (AbortIncompleteMultipartUpload) removes those.

A run may be at work meanwhile. Age protects what it writes, but for one case: a worker that makes the very
bytes of an old orphan writes over it and creates the receipt. No order of listings is safe then: data first,
and the age is an old one when the receipts are read; receipts first, and the receipt comes after; either way
the worker may come between the look and the delete, and S3 cannot delete on condition. So whichever of the
two is last puts things right. Here, bytes are kept until a listing after the delete shows that no receipt has
come; what has been named is put back. And `StepStore.commit`, where it wrote over something, looks after its
receipt whether that is still there. A receipt is either older than this listing, or that look is younger than
this delete. What is too large to be kept in memory is deleted right after such a listing instead, if that
shows it as old as before: it would have to be uploaded and committed in between. One gc at a time; one that
is killed between a delete and its listing may leave a receipt without data, which `verify --repair` mends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from dgflow.store.address import step_names
from dgflow.store.objects import Entry, ObjectStore
from dgflow.store.receipts import CorruptObject, Manifest, parse_record
from dgflow.store.step_store import StepStore, read_step

AGE = 7 * 86_400.0  # seconds, by the store's own clock
KEPT = 256 * 2**20  # bytes that are held in memory until it is known that nobody has come to need them
_AT_ONCE = 16

_DATA = re.compile(r"data/(?:([a-z]+)-)?(\d{5,})-[0-9a-f]{16}\.[a-z0-9.]+")
_RECEIPT = re.compile(r"([a-z]+)/(\d{5,})-[0-9a-f]{16}\.json")
_NOTE = re.compile(r"attempts/([a-z]+)-(\d{5,})\.json")

Part = tuple[str, int]  # folder and number, such as ("shards", 42)


@dataclass(frozen=True)
class Garbage:
    """What can go in one step."""

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
    """What can go, or went; `left` says of each folder that was not touched, why; `restored` names what was
    committed meanwhile."""

    deleted: bool
    steps: list[Garbage] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)

    @property
    def number(self) -> int:
        return sum(found.number for found in self.steps) - len(self.restored)

    @property
    def bytes(self) -> int:
        return sum(found.bytes for found in self.steps)


def collect(store: ObjectStore, *, delete: bool, tell: Callable[[str], None]) -> Collected:
    """Find what can go in every step of a root, and remove it if `delete`.

    One listing a step, one more where something is removed (for each `KEPT` bytes of it), and the receipts of
    those parts only that have more data objects than receipts. Where a part's data was lost and an orphan
    lies beside, that orphan stays. Raises StoreError.
    """
    found, now = Collected(delete), store.now()
    for name in step_names(store):
        try:
            steps = _opened(store, name)
            look = _Look.at(steps)
            garbage = Garbage(name, list(look.unnamed(now - AGE)), list(look.spent_notes(now - AGE)))
        except (CorruptObject, FileNotFoundError) as error:
            found.left.append(f"{name}: {error}")
            continue
        if garbage.number:
            found.steps.append(garbage)
            tell(
                f"{name}: {len(garbage.data):,} data objects and {len(garbage.notes):,} notes, "
                f"{garbage.bytes / 1e6:,.1f} MB"
            )
            if delete:
                found.restored += _remove(look, garbage)
    return found


def _opened(store: ObjectStore, name: str) -> StepStore:
    """The step of a folder, which has to say that it is this one. Raises CorruptObject."""
    recorded = read_step(store, name)
    if recorded is None:
        raise CorruptObject(
            "it has no step.json, so what it holds is not known; run its recipe again, or remove it by hand"
        )
    kind, _, digits = name.rpartition("-")
    fingerprint = recorded.get("fingerprint")
    if not isinstance(fingerprint, str) or not re.fullmatch(rf"{digits}[0-9a-f]{{52}}", fingerprint):
        raise CorruptObject("its step.json is that of another step; see `verify`")
    return StepStore(store, kind, fingerprint)


@dataclass(frozen=True)
class _Look:
    """A listing of a step."""

    steps: StepStore
    data: dict[Part, list[Entry]]
    receipts: dict[Part, list[Entry]]
    notes: dict[Part, Entry]
    manifests: list[str]

    @classmethod
    def at(cls, steps: StepStore) -> _Look:
        look = cls(steps, {}, {}, {}, [])
        for entry in steps.store.list(steps.name):
            key = entry.key.removeprefix(f"{steps.name}/")
            if match := _DATA.fullmatch(key):
                look.data.setdefault((match[1] or "shards", int(match[2])), []).append(entry)
            elif match := _NOTE.fullmatch(key):
                look.notes[match[1], int(match[2])] = entry
            elif key.startswith("manifests/"):
                look.manifests.append(entry.key)
            elif match := _RECEIPT.fullmatch(key):
                look.receipts.setdefault((match[1], int(match[2])), []).append(entry)
        return look

    def unnamed(self, before: float) -> Iterator[Entry]:
        """Data last written before that time, which nothing names.

        Raises CorruptObject where a record cannot be read.
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

    def named(self, parts: Iterable[Part], but: _Look | None = None) -> set[str]:
        """The data that the receipts of some parts name, but for the receipts that were there at another
        look."""
        known = {entry.key for part in parts for entry in but.receipts.get(part, [])} if but else set()
        keys = [
            entry.key for part in parts for entry in self.receipts.get(part, []) if entry.key not in known
        ]
        return {receipt.key for receipt in self.steps.receipts(keys)}

    def spent_notes(self, before: float) -> Iterator[Entry]:
        """Notes that were left before that time, and before a commit of their part."""
        for part, note in self.notes.items():
            if note.modified < before and any(
                receipt.modified >= note.modified for receipt in self.receipts.get(part, [])
            ):
                yield note

    def _sealed(self) -> set[str]:
        store = self.steps.store
        texts = zip(self.manifests, store.get_many(self.manifests), strict=True)
        return {
            entry.key for key, text in texts for entry in parse_record(Manifest, text, key, store.url).entries
        }


def _remove(look: _Look, garbage: Garbage) -> list[str]:
    """Remove it all; gives the keys of what had to be put back."""
    store = look.steps.store
    _delete(store, [entry.key for entry in garbage.notes])
    restored: list[str] = []
    small = [entry for entry in garbage.data if entry.bytes <= KEPT]
    for taken in _rounds(small):
        restored += _removed_with_care(look, taken)
    large = {entry.key: entry for entry in garbage.data if entry.bytes > KEPT}
    if large:
        now = _Look.at(look.steps)
        listed = {entry.key: entry for entries in now.data.values() for entry in entries}
        named = now.named(now.data, but=look)
        _delete(store, [key for key, entry in large.items() if listed.get(key) == entry and key not in named])
    return restored


def _removed_with_care(look: _Look, taken: Sequence[Entry]) -> list[str]:
    """Delete, look for receipts that have come, and put back what they name."""
    store = look.steps.store
    kept = dict(
        zip([entry.key for entry in taken], store.get_many([entry.key for entry in taken]), strict=True)
    )
    needed = set(kept)  # until it is known better: what stops this puts everything back
    try:
        _delete(store, list(kept))
        now = _Look.at(look.steps)
        needed = now.named(now.receipts, but=look) & set(kept)
    finally:
        for key in sorted(needed):
            if store.size(key) is None:
                store.put(key, kept[key])
    return sorted(needed)


def _rounds(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """All of them, in groups of at most `KEPT` bytes."""
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
