"""Verify: read everything back that a recipe has in a root, and compare it with what was recorded; and
repair, which makes it anew.

Promises to name every part that is damaged or missing, and to tell where a repair made other rows than a
manifest sealed. What lies behind damage that hides it, such as what was made from a slice whose manifest
cannot be read, is named once that is repaired.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dgflow.engine.plan import wanted_parts
from dgflow.engine.root import Root
from dgflow.specs.bound import Bound
from dgflow.specs.graph import Node, graph
from dgflow.specs.step import Step
from dgflow.store.objects import ObjectStore
from dgflow.store.receipts import CorruptObject, Receipt, StepMismatch
from dgflow.store.shards import check_shard, rows_sha256
from dgflow.store.step_store import StepStore, decoded


@dataclass
class Verified:
    """What was found. `damaged` and `missing` hold one line each, naming step and part.

    `records` are the keys of what `run` makes again where it is missing: receipts of damaged parts,
        manifests, steps' descriptions.
    """

    checked: int = 0
    bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    records: list[str] = field(default_factory=list)

    def damage(self, error: Exception | str, record: str | None) -> None:
        self.damaged.append(str(error))
        if record:
            self.records.append(record)


def verify(target: Step, store: ObjectStore, tell: Callable[[str], None]) -> Verified:
    """Check the bytes of every committed part against its receipt, the rows of every shard against their
    digest, every slice's manifest."""
    root, found = Root(store), Verified()
    known: dict[str, Bound | None] = {}
    for node in graph(target):
        known[node.step.fingerprint] = None
    x
        described = _check_description(step_store, node, found)
        try:
            bound = root.bind(node.step, known)
        except CorruptObject:  # it was told with the step that it belongs to
            bound = None
        if bound is None or described is None:
            found.missing.append(
                f"{node.step.name}: cannot be checked before what it is, and what it reads, is whole and "
                "complete"
            )
            continue
        folder, wanted = wanted_parts(node)
        done = step_store.done(folder, bound.digests)
        parts = {number: done[number] for number in wanted if number in done}
        tell(f"{node.step.title}: {len(parts)} of {len(wanted)} {folder}")
        if parts and not described:
            found.damage(
                f"{step_store.name}/step.json: expected the step's description, found nothing; `run` writes it "
                "again",
                None,
            )
        receipts = _check_parts(step_store, folder, parts, found)
        sealed = _check_manifests(step_store, node, bound, receipts, found)
        if missing := [number for number in wanted if number not in parts]:
            found.missing.append(f"{node.step.name}: {len(missing)} {folder}, the first is {missing[0]}")
        elif not sealed:
            found.missing.append(f"{node.step.name}: the manifest of a slice; `run` writes it")
        else:
            known[node.step.fingerprint] = bound
    return found


def repair(
    target: Step, store: ObjectStore, tell: Callable[[str], None], build: Callable[[], None]
) -> Verified:
    """Verify, remove the records of what is damaged, let `build` make it again, and verify once more, as long
    as that finds something new.

    Gives what is left. Sealed slices keep their rows' digests, so a part that comes out with other rows is
    told as damaged.
    """
    found, tried = verify(target, store, tell), set[str]()
    while not tried.issuperset(found.records):
        tried.update(found.records)
        for line in found.damaged:
            tell(f"to be repaired: {line}")
        for key in found.records:
            store.delete(key)
        try:
            build()
        except (CorruptObject, StepMismatch) as error:  # of something that could not be checked before
            tell(f"found on the way: {error}")
        found = verify(target, store, tell)
    return found


def _check_description(step_store: StepStore, node: Node, found: Verified) -> bool | None:
    """Whether the step's `step.json` is there; None where it is damaged or says that this is another step."""
    try:
        step_store.check(node.step.document())
        return step_store.recorded() is not None
    except StepMismatch as error:
        found.damage(error, None)
    except CorruptObject as error:
        found.damage(error, f"{step_store.name}/step.json")
    return None


def _check_parts(step_store: StepStore, folder: str, parts: dict[int, str], found: Verified) -> dict[str, Receipt]:
    """The receipts that can be read, by their keys."""
    receipts: dict[str, Receipt] = {}
    for _, key in sorted(parts.items()):
        try:
            receipts[key] = receipt = step_store.receipt(key)
            data = step_store.read(receipt)
            if folder == "shards":
                _check_rows(step_store, receipt, data)
        except (CorruptObject, ValueError) as error:
            found.damage(error, key)
        else:
            found.checked, found.bytes = found.checked + 1, found.bytes + len(data)
    return receipts


def _check_rows(step_store: StepStore, receipt: Receipt, data: bytes) -> None:
    columns = decoded(receipt, data)
    assert receipt.start is not None and receipt.stop is not None, receipt.part
    check_shard(columns, receipt.start, receipt.stop)
    if rows_sha256(columns) != receipt.rows_sha256:
        raise CorruptObject(
            f"{step_store.name} {receipt.part}: expected rows with sha256 {receipt.rows_sha256}, found "
            f"{rows_sha256(columns)}; run `verify --repair` to rebuild it"
        )


def _check_manifests(
    step_store: StepStore, node: Node, bound: Bound, receipts: dict[str, Receipt], found: Verified
) -> bool:
    """Whether every slice has a manifest, damaged or not."""
    keys = [step_store.manifest_key(part.start, part.stop, bound.digests) for part in node.slices]
    sealed = True
    for part, key in zip(node.slices, keys, strict=True):
        try:
            manifest = step_store.manifest(part.start, part.stop, bound.digests)
        except CorruptObject as error:
            found.damage(f"{error}; run `verify --repair` to seal the slice again", key)
            continue
        sealed = sealed and manifest is not None
        for entry in manifest.entries if manifest else ():
            receipt = receipts.get(entry.receipt)
            if receipt and receipt.rows_sha256 != entry.rows_sha256:
                found.damage(
                    f"{step_store.name} {receipt.part}: expected the rows with sha256 {entry.rows_sha256} that "
                    f"{key} sealed, found a shard with {receipt.rows_sha256}, built on {receipt.device} with "
                    f"{_versions(receipt)}; repair it on a device and with versions that give the sealed "
                    "rows, or use another root: what was made from those rows stands on them",
                    entry.receipt,
                )
            elif (
                receipt and receipt.key != entry.key
            ):  # the same rows in other bytes: readers follow the manifest
                expected = f"{key}: expected the data of {receipt.part} at {receipt.key}"
                found.damage(
                    f"{expected}, found {entry.key}; run `verify --repair` to seal the slice again", key
                )
    return sealed


def _versions(receipt: Receipt) -> str:
    return (
        ", ".join(f"{name} {version}" for name, version in sorted(receipt.versions.items()))
        or "unknown versions"
    )
