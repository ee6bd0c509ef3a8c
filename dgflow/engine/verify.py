"""Verification: reads all parts of a recipe in a root and compares them with their records. Repair rebuilds
damaged parts.

The report lists every damaged or missing part, and every repaired part whose rows differ from those that a
manifest sealed. A step whose inputs are damaged is checked only after their repair.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from dgflow.engine.root import Root
from dgflow.runtime.durations import duration
from dgflow.specs.bound import Bound
from dgflow.specs.graph import Node, graph
from dgflow.specs.step import Target
from dgflow.store.objects import ObjectStore
from dgflow.store.receipts import CorruptObject, Receipt, StepMismatch
from dgflow.store.shards import check_shard, rows_sha256
from dgflow.store.step_store import StepStore, decoded

LINE_SECONDS = 15.0  # between two progress lines on a long step
AT_ONCE = 8  # parts that are read and checked concurrently, and in memory


@dataclass
class Verified:
    """The result of a verification: `damaged` and `missing` hold one line each, with step and part.

    `records` are the keys of damaged records and of the receipts of damaged parts. `repair` deletes these
    records, so that `run` rebuilds them.
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


def verify(target: Target, store: ObjectStore, tell: Callable[[str], None]) -> Verified:
    """Checks the bytes of every committed part against its receipt, the rows of every shard against their
    digest, and every slice's manifest."""
    root, verified = Root(store), Verified()
    bounds: dict[str, Bound | None] = {}
    nodes = graph(target)
    for place, node in enumerate(nodes, 1):
        step, step_store = node.step, root.step_store(node.step)
        bounds[node.key] = None
        described = _check_description(step_store, node, verified)
        try:
            bound = root.bind(node, bounds)
        except CorruptObject:  # reported with the step to which the object belongs
            bound = None
        if bound is None or described is None:
            verified.missing.append(
                f"{step.name}: cannot be checked before its description and its inputs are complete"
            )
            continue
        folder, wanted = step.folder, step.parts(node.slices)
        done = step_store.done(folder, bound.digests)
        parts = {number: done[number] for number in wanted if number in done}
        tell(f"step {place} of {len(nodes)}, {step.title}: {len(parts):,} of {len(wanted):,} {folder}")
        if parts and not described:
            verified.damage(
                f"{step_store.name}/step.json: expected the step's description, found nothing; `run` writes "
                "it again",
                None,
            )
        receipts = _check_parts(step_store, folder, parts, verified, tell)
        sealed = _check_manifests(step_store, node, bound, receipts, verified)
        if missing := [number for number in wanted if number not in parts]:
            verified.missing.append(f"{step.name}: {len(missing)} {folder}, the first is {missing[0]}")
        elif not sealed:
            verified.missing.append(f"{step.name}: the manifest of a slice; `run` writes it")
        else:
            bounds[node.key] = bound
    return verified


def repair(
    target: Target, store: ObjectStore, tell: Callable[[str], None], build: Callable[[], None]
) -> Verified:
    """Repairs damaged parts; returns the remaining damage.

    Repeats three steps until no new damage is found: verify, delete the records of damaged parts, and call
    `build`, which makes the parts again. A manifest keeps the digests of its rows, so a part that is rebuilt
    with different rows is reported as damaged.
    """
    verified, tried = verify(target, store, tell), set[str]()
    while not tried.issuperset(verified.records):
        tried.update(verified.records)
        for line in verified.damaged:
            tell(f"to be repaired: {line}")
        for key in verified.records:
            store.delete(key)
        try:
            build()
        except (CorruptObject, StepMismatch) as error:  # in a part that could not be checked before
            tell(f"further damage: {error}")
        verified = verify(target, store, tell)
    return verified


def _check_description(step_store: StepStore, node: Node, verified: Verified) -> bool | None:
    """True if `step.json` is valid, False if it is missing; None if it is damaged or of another step."""
    try:
        step_store.check(node.step.document())
        return step_store.recorded() is not None
    except StepMismatch as error:
        verified.damage(error, None)
    except CorruptObject as error:
        verified.damage(error, f"{step_store.name}/step.json")
    return None


def _check_parts(
    step_store: StepStore, folder: str, parts: dict[int, str], verified: Verified, tell: Callable[[str], None]
) -> dict[str, Receipt]:
    """Checks the parts and records damage in `verified`; returns the readable receipts by key. `tell`
    receives a line of progress every `LINE_SECONDS`."""
    receipts: dict[str, Receipt] = {}
    keys = [key for _, key in sorted(parts.items())]
    began = last = time.monotonic()
    readers = ThreadPoolExecutor(AT_ONCE)
    try:
        results = readers.map(partial(_checked, step_store, folder), keys)
        for number, (key, (receipt, size)) in enumerate(zip(keys, results, strict=True)):
            now = time.monotonic()
            if number and now - last >= LINE_SECONDS:
                last, left = now, (now - began) / number * (len(parts) - number)
                tell(f"  {number:,} of {len(parts):,} checked, about {duration(left)} left")
            if receipt is not None:
                receipts[key] = receipt
            if isinstance(size, int):
                verified.checked, verified.bytes = verified.checked + 1, verified.bytes + size
            else:
                verified.damage(size, key)
    finally:
        readers.shutdown(cancel_futures=True)
    return receipts


def _checked(step_store: StepStore, folder: str, key: str) -> tuple[Receipt | None, int | Exception]:
    """Returns the receipt of a part, None if it cannot be read, and the size of the part in bytes, or the
    error that was found."""
    receipt = None
    try:
        receipt = step_store.receipt(key)
        data = step_store.read(receipt)
        if folder == "shards":
            _check_rows(step_store, receipt, data)
    except (CorruptObject, ValueError) as error:
        return receipt, error
    return receipt, len(data)


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
    step_store: StepStore, node: Node, bound: Bound, receipts: dict[str, Receipt], verified: Verified
) -> bool:
    """True if every slice has a manifest, damaged or not."""
    keys = [step_store.manifest_key(part.start, part.stop, bound.digests) for part in node.slices]
    sealed = True
    for part, key in zip(node.slices, keys, strict=True):
        try:
            manifest = step_store.manifest(part.start, part.stop, bound.digests)
        except CorruptObject as error:
            verified.damage(f"{error}; run `verify --repair` to seal the slice again", key)
            continue
        sealed = sealed and manifest is not None
        for entry in manifest.entries if manifest else ():
            receipt = receipts.get(entry.receipt)
            if receipt and receipt.rows_sha256 != entry.rows_sha256:
                verified.damage(
                    f"{step_store.name} {receipt.part}: expected the rows with sha256 {entry.rows_sha256} "
                    f"that {key} sealed, found a shard with {receipt.rows_sha256}, built on "
                    f"{receipt.device} with {_versions(receipt)}; repair it on a device and with versions "
                    "that give the sealed rows, or use another root: later steps were made from the sealed "
                    "rows",
                    entry.receipt,
                )
            elif receipt and receipt.key != entry.key:  # readers use the sealed bytes
                expected = f"{key}: expected the data of {receipt.part} at {receipt.key}"
                verified.damage(
                    f"{expected}, found {entry.key}; run `verify --repair` to seal the slice again", key
                )
    return sealed


def _versions(receipt: Receipt) -> str:
    return (
        ", ".join(f"{name} {version}" for name, version in sorted(receipt.versions.items()))
        or "unknown versions"
    )
