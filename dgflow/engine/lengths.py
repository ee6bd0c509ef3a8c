"""Reuse of shards between steps that differ only in the number of samples.

The slice that `Decode` or `Features` reads is part of the step's identity, so with more samples it is a
different step. But no row depends on the length of the slice (`SampleStep.maps`). Therefore a shard of the
other step is copied if it was made from the same rows, as the digests in the manifests show, and from the
same other inputs. Samples of a retrained network have different digests, so their shards are not copied.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from dgflow.specs.bound import Bound, BoundRows
from dgflow.specs.step import SampleStep
from dgflow.store.address import sealed_slices, step_names
from dgflow.store.identity import fingerprint as digest
from dgflow.store.objects import ObjectStore
from dgflow.store.receipts import CorruptObject, Manifest, Receipt
from dgflow.store.step_store import StepStore, read_step

log = logging.getLogger(__name__)


class Copy(NamedTuple):
    """A shard of another step to copy, identified by the key of its receipt."""

    step_store: StepStore
    receipt: str


class _Mapping(NamedTuple):
    """A step that maps a slice: the fingerprint of the step without the slice, and the slice in its recorded
    form."""

    name: str
    fingerprint: str
    rest: str
    slice: Mapping[str, Any]

    @classmethod
    def of(cls, kind: str, fingerprint: str, document: Mapping[str, Any], maps: str) -> _Mapping | None:
        """Returns the mapping that a document describes; None if the field `maps` is not a slice."""
        fields = dict(document["fields"])
        part = fields.pop(maps, None)
        if not isinstance(part, Mapping) or "stop" not in part:
            return None
        return cls(f"{kind}-{fingerprint[:12]}", fingerprint, digest({**document, "fields": fields}), part)

    @property
    def length(self) -> int:
        return self.slice["stop"] - self.slice["start"]


@dataclass
class Lengths:
    """The steps of a store that differ only in the length of a slice. The steps are listed at the first
    lookup, and each record is read once."""

    store: ObjectStore
    _records: dict[str, _Mapping | None] = field(default_factory=dict)  # by the step's name

    @cached_property
    def _names(self) -> list[str]:
        return step_names(self.store)

    def copies(self, step: SampleStep, inputs: Bound, missing: Iterable[int]) -> dict[int, Copy]:
        """Returns the shards among `missing`, by number, that a step of another length has made from the same
        inputs."""
        wanted, copies = set(missing), dict[int, Copy]()
        for other in self._others(step) if wanted else ():
            step_store = StepStore(self.store, step.kind, other.fingerprint)
            for keys in self._shards(other, step, wanted - copies.keys()):
                try:
                    same = self._same(other, step_store.receipt(next(iter(keys.values()))), step, inputs)
                except (CorruptObject, FileNotFoundError) as error:
                    log.warning("%s: nothing is copied from %s: %s", step.name, step_store.name, error)
                    continue
                copies |= {number: Copy(step_store, key) for number, key in keys.items() if same(number)}
        return copies

    def likely(self, step: SampleStep, missing: Iterable[int]) -> int:
        """Returns the number of shards that `copies` may give once the inputs of the step are complete."""
        wanted = set(missing)
        shards = (keys for other in self._others(step) for keys in self._shards(other, step, wanted))
        return len({number for keys in shards for number in keys})

    def _shards(self, other: _Mapping, step: SampleStep, wanted: set[int]) -> list[dict[int, str]]:
        """Returns the keys of the other step's receipts of the same ranges, by number, grouped by equal
        inputs."""
        by_inputs: dict[str, dict[int, str]] = {}
        committed = StepStore(self.store, step.kind, other.fingerprint).committed("shards")
        for number in wanted & committed.keys():
            stop = min((number + 1) * step.shard_size, other.length)
            if stop == step.shard_range(number)[1]:  # else it is the last shard of the shorter step
                for inputs16, key in committed[number].items():
                    by_inputs.setdefault(inputs16, {})[number] = key
        return list(by_inputs.values())

    def _same(
        self, other: _Mapping, receipt: Receipt, step: SampleStep, inputs: Bound
    ) -> Callable[[int], bool]:
        """Returns a predicate of a shard's number: True if the other step's shard was made from the same
        inputs. `receipt` gives the inputs of the other step's shards."""
        digests, their_digests = inputs.digests, dict(receipt.inputs)
        mapped = digests.pop(step.maps, None), their_digests.pop(step.maps, None)
        if digests != their_digests:
            return lambda number: False
        if mapped[0] == mapped[1]:  # also true for a slice that is read without being stored
            return lambda number: True
        item = inputs.items.get(step.maps)
        manifest = self._manifest(other, mapped[1])
        if manifest is None or not isinstance(item, BoundRows):
            return lambda number: False
        their_rows = {(each.start, each.stop, each.rows_sha256) for each in manifest.entries}

        def same(number: int) -> bool:
            start, stop = (item.start + row for row in step.shard_range(number))
            entries = (each for each in item.manifest.entries if each.start < stop and each.stop > start)
            return all((each.start, each.stop, each.rows_sha256) in their_rows for each in entries)

        return same

    def _manifest(self, other: _Mapping, wanted: str | None) -> Manifest | None:
        """Returns the manifest with the digest `wanted` of the slice that the other step maps; None if it was
        removed."""
        part = other.slice
        source = StepStore(self.store, part["step"], part["fingerprint"])
        edges = part["start"], part["stop"]
        sealed = (each for each in sealed_slices(source) if (each.start, each.stop) == edges)
        return next((each for each in sealed if each.digest == wanted), None)

    def _others(self, step: SampleStep) -> Iterator[_Mapping]:
        """Returns the recorded steps that differ from `step` only in the length of the slice."""
        mapping = _Mapping.of(step.kind, step.fingerprint, step.document(), step.maps)
        if mapping is None:
            return
        for name in self._names:
            if name.rpartition("-")[0] == step.kind and name != mapping.name:
                other = self._recorded(name, step.maps)
                if other is not None and self._alike(step, mapping, other):
                    yield other

    def _alike(self, step: SampleStep, own: _Mapping, other: _Mapping) -> bool:
        mine, theirs = own.slice, other.slice
        if (own.rest, mine["step"], mine["start"]) != (other.rest, theirs["step"], theirs["start"]):
            return False
        if mine["fingerprint"] == theirs["fingerprint"]:
            return True
        source = getattr(step, step.maps).step  # its own slice may differ in length, too
        own_source = _Mapping.of(source.kind, source.fingerprint, source.document(), source.maps)
        of_other = self._recorded(f"{theirs['step']}-{theirs['fingerprint'][:12]}", source.maps)
        return own_source is not None and of_other is not None and self._alike(source, own_source, of_other)

    def _recorded(self, name: str, maps: str) -> _Mapping | None:
        if name not in self._records:
            try:
                record = read_step(self.store, name)
            except CorruptObject as error:
                log.warning("nothing is copied from %s: %s", name, error)
                return None
            if record is None:
                return None
            kind = name.rpartition("-")[0]
            self._records[name] = _Mapping.of(kind, record["fingerprint"], record["document"], maps)
        return self._records[name]


def copied(step_store: StepStore, number: int, inputs: Mapping[str, str], copy: Copy) -> bool:
    """Commits a shard of another step as a shard of this step, made from `inputs`; returns False if the
    original is missing or damaged. The bytes, seconds, device and versions are those of the original."""
    try:
        receipt = copy.step_store.receipt(copy.receipt)
        data = copy.step_store.read(receipt)
    except (CorruptObject, FileNotFoundError) as error:
        log.warning("%s shards/%05d cannot be copied and is rebuilt: %s", step_store.name, number, error)
        return False
    step_store.commit(
        "shards",
        number,
        data,
        suffix=receipt.key.rpartition(".")[2],
        inputs=inputs,
        metrics=receipt.metrics | {"copied_from": copy.step_store.name},
        **receipt.model_dump(include={"rows_sha256", "start", "stop", "seconds", "device", "versions"}),
    )
    return True
