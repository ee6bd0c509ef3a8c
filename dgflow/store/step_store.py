"""The objects of one step in a store: its declaration, its committed parts, and the commit of further parts.

    {kind}-{fingerprint[:12]}/
        step.json                               what the step is
        data/00042-<sha16>.parquet              data, named by its own digest
        data/epochs-00007-<sha16>.safetensors
        shards/00042-<inputs16>.json            receipts: the commits
        epochs/00007-<inputs16>.json
        manifests/0-50000-<inputs16>.json       sealed slices
        attempts/shards-00042.json              advisory: notes of attempts,
        attempts/preview.png                    the first samples,
        attempts/path-<inputs16>.png            and one sample along its path

A receipt's name contains the digest of its inputs (`inputs16`: 16 hex digits of `fingerprint(inputs)`). A
part made from a retrained discriminator has another name, so a stale result is never mistaken for a fresh one
and never blocks it. A receipt is only ever created, never replaced, so a late writer cannot alter anything.
One listing, without reads, shows which parts are done.

Invariants: a receipt means complete data with its sha256; each (folder, number, inputs) has at most one
receipt, which never changes; a manifest holds each index once.
"""

import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dgflow.store.identity import canonical_json, differences, fingerprint, sha256_hex
from dgflow.store.objects import LARGEST_CREATE, Entry, ObjectStore, StoreError
from dgflow.store.receipts import (
    CorruptObject,
    Manifest,
    ManifestEntry,
    Receipt,
    Record,
    StepMismatch,
    parse_json,
    parse_record,
)
from dgflow.store.shards import Columns, Format, check_shard, decode_shard, encode_shard, rows_sha256

_RECEIPT = re.compile(r"(\d{5,})-([0-9a-f]{16})\.json")
_log = logging.getLogger(__name__)


class StepStore:
    """The objects of one step. Holds no state beyond the step's name; can be pickled if its store can."""

    def __init__(self, store: ObjectStore, kind: str, fingerprint: str) -> None:
        """Name the step: `kind` is its kind, such as `generate`; `fingerprint` has all 64 hex digits."""
        if not re.fullmatch(r"[0-9a-f]{64}", fingerprint):
            raise ValueError(f"expected a fingerprint of 64 hex digits, found {fingerprint!r}")
        self.store = store
        self.kind = kind
        self.fingerprint = fingerprint
        self.name = f"{kind}-{fingerprint[:12]}"

    def declare(self, document: Mapping[str, Any], described: Mapping[str, Mapping[str, Any]] = {}) -> None:
        """Record the step's document; idempotent.

        `described` maps the names of steps that the document refers to, and that are not in the store, to
        their documents. Raises StepMismatch, which lists the fields, if another step is recorded.
        """
        beside = {"described": dict(described)} if described else {}
        encoded = canonical_json(self._declaration(document) | beside).encode()
        try:
            if self.store.create(f"{self.name}/step.json", encoded):
                return
        except StoreError:
            if self.recorded() is None:
                raise
        self.check(document)

    def _declaration(self, document: Mapping[str, Any]) -> dict[str, Any]:
        return {"fingerprint": self.fingerprint, "document": dict(document)}

    def check(self, document: Mapping[str, Any]) -> None:
        """Raise StepMismatch, which lists the fields, if another step is recorded; no error if none is."""
        recorded = self.recorded()
        if recorded is not None:
            recorded = {name: value for name, value in recorded.items() if name != "described"}
        if recorded is not None and (changed := differences(recorded, self._declaration(document))):
            raise StepMismatch(
                f"{self.name}/step.json in {self.store.url} records another step: {'; '.join(changed)}."
                " Use another root, undo the change, or remove that folder if nothing needs it"
            )

    def recorded(self) -> dict[str, Any] | None:
        """The declaration, `{"fingerprint": ..., "document": ...}`, perhaps with `described`; None if there
        is none yet.
        """
        return read_step(self.store, self.name)

    def committed(self, folder: str) -> dict[int, dict[str, str]]:
        """List all receipts of a folder, by one request: number -> {`inputs16`: receipt key}."""
        receipts: dict[int, dict[str, str]] = {}
        for entry, number, inputs in self._listed(folder):
            receipts.setdefault(number, {})[inputs] = entry.key
        return receipts

    def newest(self, folder: str) -> dict[int, str]:
        """List the receipts with the same inputs as the latest receipt, by one request: number -> receipt
        key. For readers without the recipe, because only the recipe determines the current inputs.
        """
        listed = list(self._listed(folder))
        if not listed:
            return {}
        latest = max(listed, key=lambda item: item[0].modified)[2]
        return {number: entry.key for entry, number, inputs in listed if inputs == latest}

    def _listed(self, folder: str) -> Iterator[tuple[Entry, int, str]]:
        """List the receipts of a folder: entry, number and `inputs16`."""
        prefix = f"{self.name}/{folder}"
        for entry in self.store.list(prefix):
            if match := _RECEIPT.fullmatch(entry.key.removeprefix(f"{prefix}/")):
                yield entry, int(match[1]), match[2]

    def done(self, folder: str, inputs: Mapping[str, str]) -> dict[int, str]:
        """List the receipts of parts made from exactly these inputs: number -> receipt key."""
        return made_from(self.committed(folder), inputs)

    def key(self, folder: str, number: int, inputs: Mapping[str, str]) -> str:
        """The key of the receipt of a part made from exactly these inputs, existing or not."""
        return f"{self.name}/{folder}/{number:05d}-{inputs16(inputs)}.json"

    def is_committed(self, folder: str, number: int, inputs: Mapping[str, str]) -> bool:
        """True if that receipt exists; one request, no listing."""
        return self.store.size(self.key(folder, number, inputs)) is not None

    def receipt(self, key: str) -> Receipt:
        """Read the receipt at a key. Raises FileNotFoundError, or CorruptObject if its content belongs to
        another name.
        """
        return self._checked_receipt(key, self.store.get(key))

    def receipts(self, keys: Sequence[str]) -> list[Receipt]:
        """Read several receipts, in the order of `keys`, concurrently where that helps. Raises the errors of
        `receipt`.
        """
        return list(map(self._checked_receipt, keys, self.store.get_many(keys)))

    def commit(
        self,
        folder: str,
        number: int,
        data: bytes,
        *,
        suffix: str,
        rows_sha256: str,
        inputs: Mapping[str, str],
        start: int | None = None,
        stop: int | None = None,
        seconds: float,
        device: str,
        versions: Mapping[str, str],
        metrics: Mapping[str, Any] = {},
    ) -> Receipt:
        """Store data and commit it with a receipt; returns the valid receipt, possibly of another attempt.

        `folder` is `shards` or `epochs`, for example; `suffix` is the file name extension of the data. The
        commit is idempotent: it can be repeated after any error and by several processes at once. The first
        receipt wins; a later attempt's data is left for `gc`. Repeating a commit also restores lost or
        damaged data if the bytes are the same.
        """
        sha256 = sha256_hex(data)
        prefix = "" if folder == "shards" else f"{folder}-"
        receipt = Receipt(
            part=f"{folder}/{number:05d}",
            number=number,
            key=f"{self.name}/data/{prefix}{number:05d}-{sha256[:16]}.{suffix.removeprefix('.')}",
            sha256=sha256,
            rows_sha256=rows_sha256,
            bytes=len(data),
            start=start,
            stop=stop,
            inputs=dict(inputs),
            inputs_sha256=fingerprint(dict(inputs)),
            seconds=seconds,
            created=time.time(),
            device=device,
            versions=dict(versions),
            metrics=dict(metrics),
        )
        encoded = receipt.encoded()
        created = 0 < len(data) <= LARGEST_CREATE and self.store.create(receipt.key, data)
        # An existing object may be damaged, or old and without a receipt: writing it again makes it intact
        # and too recent for gc.
        if not created:
            self.store.put(receipt.key, data)
        standing = self._create_record(self._receipt_key(receipt), receipt, encoded)
        if not created and standing.key == receipt.key and self.store.size(receipt.key) is None:
            self.store.put(receipt.key, data)  # gc had removed it as an orphan (see engine/gc.py)
        return standing

    def write_shard(
        self,
        number: int,
        columns: Columns,
        *,
        start: int,
        stop: int,
        inputs: Mapping[str, str],
        format: Format = "parquet",
        seconds: float,
        device: str,
        versions: Mapping[str, str],
        metrics: Mapping[str, Any] = {},
    ) -> Receipt:
        """Check, encode and commit the samples [start, stop) as a shard. Raises ValueError for bad rows."""
        check_shard(columns, start, stop)
        return self.commit(
            "shards",
            number,
            encode_shard(columns, format),
            suffix=format,
            rows_sha256=rows_sha256(columns),
            inputs=inputs,
            start=start,
            stop=stop,
            seconds=seconds,
            device=device,
            versions=versions,
            metrics=metrics,
        )

    def read(self, entry: Receipt | ManifestEntry) -> bytes:
        """Read committed data and verify it. Raises CorruptObject if it is missing or altered."""
        part = entry.part if isinstance(entry, Receipt) else f"shards/{entry.number:05d}"
        try:
            data = self.store.get(entry.key)
        except FileNotFoundError:
            found = "nothing"
        else:
            sha256 = sha256_hex(data)
            if sha256 == entry.sha256:
                return data
            found = f"{len(data)} bytes with sha256 {sha256}"
        raise CorruptObject(
            f"{self.name} {part}: expected {entry.bytes} bytes with sha256 {entry.sha256} at {entry.key} "
            f"in {self.store.url},"
            f" found {found}; run `verify` to see what else is damaged, and `verify --repair` to rebuild it"
        )

    def read_shard(self, entry: Receipt | ManifestEntry, columns: Sequence[str] | None = None) -> Columns:
        """Read the rows of a shard: all columns, or those named. Raises as `read` and `decoded`."""
        return decoded(entry, self.read(entry), columns)

    def seal(
        self,
        start: int,
        stop: int,
        inputs: Mapping[str, str],
        keys: Sequence[str],
        remarks: Sequence[str] = (),
    ) -> Manifest:
        """Write the manifest of the samples [start, stop); `keys` are those of its shards' receipts, in index
        order.

        Raises ValueError if the shards are not those of the slice or of these inputs, CorruptObject if a data
        object is missing or has another size, and StepMismatch if the slice was sealed with other shards.
        """
        manifest = Manifest.of(start, stop, inputs, keys, self.receipts(keys), remarks)
        self._check_present(manifest.entries)
        key = self.manifest_key(start, stop, inputs)
        standing = self._create_record(key, manifest, manifest.encoded())
        if standing != manifest:
            changed = differences(standing.model_dump(), manifest.model_dump())
            raise StepMismatch(
                f"{key} in {self.store.url} was sealed with other shards: {'; '.join(changed[:5])}. Keep "
                "the sealed shards, or use another root"
            )
        return manifest

    def manifest(self, start: int, stop: int, inputs: Mapping[str, str]) -> Manifest | None:
        """Read the manifest of a slice; None if it is not sealed. Raises CorruptObject if it is damaged."""
        key = self.manifest_key(start, stop, inputs)
        try:
            manifest = parse_record(Manifest, self.store.get(key), key, self.store.url)
        except FileNotFoundError:
            return None
        if (manifest.start, manifest.stop, manifest.inputs) != (start, stop, dict(inputs)):
            expected = "expected the manifest of that slice and those inputs, found another"
            raise CorruptObject(f"{key} in {self.store.url}: {expected}")
        return manifest

    def discard(self, key: str) -> None:
        """Remove a receipt and then its data: for scratch that nothing refers to, such as checkpoints.

        If the receipt is damaged, the data is left for `gc`.
        """
        try:
            receipt = self.receipt(key)
        except FileNotFoundError:
            return
        except CorruptObject as error:
            _log.warning("removing a damaged receipt that nothing refers to: %s", error)
            self.store.delete(key)
            return
        self.store.delete(key)
        self.store.delete(receipt.key)

    def note_attempt(self, folder: str, number: int, record: Mapping[str, Any]) -> None:
        """Write a note of an attempt, for `status`. Advisory: a failure is logged and never raised."""
        key = f"{self.name}/attempts/{folder}-{number:05d}.json"
        try:
            self.store.put(key, canonical_json(dict(record)).encode())
        except Exception as error:
            _log.warning("could not note an attempt of %s %s/%05d: %s", self.name, folder, number, error)

    def attempt(self, folder: str, number: int) -> dict[str, Any]:
        """Read the note of the latest attempt at a part; empty if there is none or it cannot be read."""
        key = f"{self.name}/attempts/{folder}-{number:05d}.json"
        try:
            return parse_json(self.store.get(key), key, self.store.url)
        except (FileNotFoundError, CorruptObject):
            return {}

    def noted(self, folder: str) -> dict[int, Entry]:
        """List the notes of the latest attempt at each part of a folder, by number, by one request."""
        prefix = f"{self.name}/attempts"
        pattern = re.compile(rf"{re.escape(f'{prefix}/{folder}')}-(\d+)\.json")
        return {
            int(match[1]): entry
            for entry in self.store.list(prefix)
            if (match := pattern.fullmatch(entry.key))
        }

    def _create_record(self, key: str, record: Record, encoded: bytes) -> Record:
        """Create a record; returns the existing one if another writer won, or if the write succeeded despite
        an error.
        """
        try:
            if self.store.create(key, encoded):
                return record
        except StoreError:
            try:
                return parse_record(type(record), self.store.get(key), key, self.store.url)
            except (FileNotFoundError, StoreError):
                pass
            raise  # the first error: there is no record, or that cannot be determined
        return parse_record(type(record), self.store.get(key), key, self.store.url)

    def _checked_receipt(self, key: str, data: bytes) -> Receipt:
        try:
            receipt = parse_record(Receipt, data, key, self.store.url)
        except CorruptObject as error:
            raise CorruptObject(f"{error}; run `verify --repair` to rebuild that part") from error
        if self._receipt_key(receipt) != key:
            raise CorruptObject(
                f"{key} in {self.store.url}: expected the receipt of that name, found one of "
                f"{self._receipt_key(receipt)}"
            )
        return receipt

    def _receipt_key(self, receipt: Receipt) -> str:
        return f"{self.name}/{receipt.part}-{receipt.inputs_sha256[:16]}.json"

    def manifest_key(self, start: int, stop: int, inputs: Mapping[str, str]) -> str:
        """The key of the manifest of a slice."""
        return f"{self.name}/manifests/{start}-{stop}-{inputs16(inputs)}.json"

    def _check_present(self, entries: Sequence[ManifestEntry]) -> None:
        """Raise CorruptObject if the data of an entry is missing or has another size.

        Takes one listing, and one request per object that the listing lacks or shows with another size.
        """
        listed = {entry.key: entry.bytes for entry in self.store.list(f"{self.name}/data")}
        for entry in entries:
            if listed.get(entry.key) != entry.bytes and (size := self.store.size(entry.key)) != entry.bytes:
                found = "nothing" if size is None else f"{size} bytes"
                raise CorruptObject(
                    f"{self.name} shards/{entry.number:05d}: expected {entry.bytes} bytes at {entry.key} in "
                    f"{self.store.url}, found {found}; run `verify --repair` to rebuild it"
                )


def made_from(committed: Mapping[int, Mapping[str, str]], inputs: Mapping[str, str]) -> dict[int, str]:
    """Select the receipts of `StepStore.committed` made from exactly these inputs: number -> receipt key."""
    wanted = inputs16(inputs)
    return {number: keys[wanted] for number, keys in committed.items() if wanted in keys}


def decoded(entry: Receipt | ManifestEntry, data: bytes, columns: Sequence[str] | None = None) -> Columns:
    """Decode the rows of a shard's data: all columns, or those named. Raises ValueError for an unknown
    one.
    """
    return decode_shard(data, "npz" if entry.key.endswith(".npz") else "parquet", columns)


def read_step(store: ObjectStore, name: str) -> dict[str, Any] | None:
    """Read the declaration in the folder `name`; None if there is none. Raises CorruptObject."""
    key = f"{name}/step.json"
    try:
        return parse_json(store.get(key), key, store.url)
    except FileNotFoundError:
        return None


def read_rows(
    step_store: StepStore, manifest: Manifest, start: int, stop: int, columns: Sequence[str] | None = None
) -> Iterator[Columns]:
    """Yield the samples [start, stop) of a sealed slice, shard by shard in index order, trimmed to the range.

    Raises ValueError for a range that the manifest does not hold, and the errors of `StepStore.read`.
    """
    if not manifest.start <= start < stop <= manifest.stop:
        raise ValueError(
            f"expected a range within the sealed samples [{manifest.start}, {manifest.stop}), found "
            f"[{start}, {stop})"
        )
    for entry in manifest.entries:
        first, last = max(start, entry.start), min(stop, entry.stop)
        if first < last:
            rows = step_store.read_shard(entry, columns)
            yield {name: values[first - entry.start : last - entry.start] for name, values in rows.items()}


def inputs16(inputs: Mapping[str, str]) -> str:
    """Return the digest of a step's inputs that the names of its files contain, 16 hex digits."""
    return fingerprint(dict(inputs))[:16]
