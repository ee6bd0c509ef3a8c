"""Records of work: the receipt that commits a part, and the manifest that lists the receipts of a slice.

A record that parses is self-consistent. `step_store` checks that the data it names exists.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dgflow.store.identity import canonical_json, differences, fingerprint
from dgflow.store.validation import shortened

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CorruptObject(RuntimeError):
    """A committed object is missing, or differs from its record."""


class StepMismatch(RuntimeError):
    """Another step or slice is recorded under this name."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def encoded(self) -> bytes:
        """Canonical JSON. Raises ValueError for a value without a stable form, such as a NaN in `metrics`."""
        return canonical_json(self.model_dump()).encode()


class Receipt(_Record):
    """One committed part: its data is complete and has this digest."""

    part: str  # folder and number, such as "shards/00042"
    number: int
    key: str  # key of the data object, relative to the store's root
    sha256: Sha256  # digest of the data object's bytes
    rows_sha256: Sha256  # digest of the content: of a shard's decoded rows, or as the kind of step defines it
    bytes: int
    start: int | None  # sample indices [start, stop); None for data other than samples
    stop: int | None
    inputs: dict[str, str]  # inputs by name: digest of a manifest, or of weights as loaded
    inputs_sha256: Sha256  # fingerprint(inputs)
    seconds: float  # duration of the work
    created: float  # seconds since the epoch, by the writer's clock
    device: str
    versions: dict[str, str]
    metrics: dict[str, Any] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_inputs(self.inputs, self.inputs_sha256)
        if not self.part.endswith(f"/{self.number:05d}") or self.sha256[:16] not in self.key:
            raise ValueError(
                f"expected number {self.number} in part {self.part!r} and sha256 {self.sha256[:16]}... in "
                f"key {self.key!r}"
            )
        return self


class ManifestEntry(_Record):
    """One complete shard of a slice."""

    number: int
    receipt: str  # key of the receipt
    key: str  # key of the data object
    start: int
    stop: int
    sha256: Sha256
    rows_sha256: Sha256
    bytes: int


class Manifest(_Record):
    """The samples [start, stop) as complete shards in index order; readers trim the first and the last."""

    start: int
    stop: int
    inputs: dict[str, str]
    inputs_sha256: Sha256
    entries: tuple[ManifestEntry, ...]
    remarks: tuple[str, ...] = ()  # notes for a human reader, such as the images that were skipped

    @property
    def digest(self) -> str:
        """The digest of the rows, independent of times and file formats; steps that read this slice record
        it.
        """
        rows = [[entry.start, entry.stop, entry.rows_sha256] for entry in self.entries]
        return fingerprint({"start": self.start, "stop": self.stop, "rows": rows})

    @classmethod
    def of(
        cls,
        start: int,
        stop: int,
        inputs: Mapping[str, str],
        keys: Sequence[str],
        receipts: Sequence[Receipt],
        remarks: Sequence[str] = (),
    ) -> Self:
        """Build a manifest from receipts and their keys, in index order. Raises ValueError for shards that do
        not fit.
        """
        entries: list[ManifestEntry] = []
        for key, receipt in zip(keys, receipts, strict=True):
            if changed := differences(receipt.inputs, dict(inputs)):
                raise ValueError(
                    f"{key}: expected a shard made from the inputs of this slice, found others: "
                    f"{'; '.join(changed)}"
                )
            if receipt.start is None or receipt.stop is None:
                raise ValueError(
                    f"{key}: expected a shard of samples, found an artefact without an index range"
                )
            fields = receipt.model_dump(
                include={"number", "key", "start", "stop", "sha256", "rows_sha256", "bytes"}
            )
            entries.append(ManifestEntry(receipt=key, **fields))
        _check_cover(start, stop, entries)
        return cls(
            start=start,
            stop=stop,
            inputs=dict(inputs),
            inputs_sha256=fingerprint(dict(inputs)),
            entries=tuple(entries),
            remarks=tuple(remarks),
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_inputs(self.inputs, self.inputs_sha256)
        _check_cover(self.start, self.stop, self.entries)
        return self


Record = TypeVar("Record", Receipt, Manifest)


def parse_record(model: type[Record], data: bytes, key: str, url: str) -> Record:
    """Parse the bytes at `key` in the store at `url` as a receipt or manifest. Raises CorruptObject."""
    try:
        return model.model_validate(parse_json(data, key, url))
    except ValidationError as error:
        raise CorruptObject(
            f"{key} in {url}: expected a {model.__name__.lower()}, found one that is not consistent: "
            f"{shortened(error)}"
        ) from error


def parse_json(data: bytes, key: str, url: str) -> dict[str, Any]:
    """Parse bytes as a JSON object. Raises CorruptObject."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        found = f"{len(data)} bytes that are not ({error})"
        raise CorruptObject(f"{key} in {url}: expected JSON, found {found}") from error
    if not isinstance(value, dict):
        raise CorruptObject(f"{key} in {url}: expected a JSON object, found {type(value).__name__}")
    return value


def _check_cover(start: int, stop: int, entries: Sequence[ManifestEntry]) -> None:
    """Raise ValueError unless the shards are consecutive, all needed, and cover [start, stop)."""
    if not 0 <= start < stop:
        raise ValueError(f"expected 0 <= start < stop, found start {start} and stop {stop}")
    if not entries:
        raise ValueError(f"expected shards that hold [{start}, {stop}), found none")
    for entry in entries:
        if not entry.start < entry.stop:
            raise ValueError(
                f"expected a shard of at least one index, found [{entry.start}, {entry.stop}) at "
                f"{entry.receipt}"
            )
    for before, after in pairwise(entries):
        if before.stop != after.start:
            raise ValueError(
                f"expected a shard that begins at {before.stop}, found [{after.start}, {after.stop}) at "
                f"{after.receipt}"
            )
    first, last = entries[0], entries[-1]
    if not first.start <= start < first.stop or not last.start < stop <= last.stop:
        raise ValueError(
            f"expected whole shards that hold [{start}, {stop}) and no more, found [{first.start}, "
            f"{last.stop})"
        )


def _check_inputs(inputs: dict[str, str], inputs_sha256: str) -> None:
    if fingerprint(inputs) != inputs_sha256:
        raise ValueError(
            f"expected inputs_sha256 {fingerprint(inputs)} for these inputs, found {inputs_sha256}"
        )
