"""Verify: read everything back that a recipe has in a root, and compare it with what was recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dgflow.steps.binding import Bound, Root, graph
from dgflow.steps.plan import look
from dgflow.steps.step import Step
from dgflow.store.objects import ObjectStore
from dgflow.store.receipts import CorruptObject, Receipt, StepMismatch
from dgflow.store.shards import check_shard, rows_sha256
from dgflow.store.step_store import StepStore


@dataclass
class Verified:
    """What was found. `damaged` and `missing` hold one line each, naming step and part, `receipts` the keys of damaged ones."""

    checked: int = 0
    bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    receipts: list[str] = field(default_factory=list)


def verify(target: Step, store: ObjectStore, tell: Callable[[str], None]) -> Verified:
    """Check the bytes of every committed part against its receipt, the rows of every shard against their digest, every slice's manifest."""
    root, found = Root(store), Verified()
    known: dict[str, Bound | None] = {}
    for node in graph(target):
        try:
            state = look(root, node, known)
        except (CorruptObject, StepMismatch) as error:
            found.damaged.append(str(error))
            known[node.step.fingerprint] = None
            continue
        steps = root.steps(node.step)
        tell(f"{node.step.title}: {len(state.done)} of {len(state.wanted)} {state.unit}")
        if state.bound is None:
            found.missing.append(f"{node.step.name}: cannot be checked, {state.reason}")
            continue
        if state.done and steps.recorded() is None:
            found.damaged.append(f"{steps.name}/step.json: expected the step's description, found nothing; `run` writes it again")
        for _, key in sorted(state.done.items()):
            try:
                receipt = steps.receipt(key)
                data = steps.read(receipt)
                if state.folder == "shards":
                    _check_rows(steps, receipt)
            except (CorruptObject, ValueError) as error:
                found.damaged.append(str(error))
                found.receipts.append(key)
            else:
                found.checked, found.bytes = found.checked + 1, found.bytes + len(data)
        if state.missing:
            found.missing.append(f"{node.step.name}: {len(state.missing)} {state.unit}, the first is {state.missing[0]}")
        elif not state.complete:
            found.missing.append(f"{node.step.name}: the manifest of a slice; `run` writes it")
    return found


def _check_rows(steps: StepStore, receipt: Receipt) -> None:
    columns = steps.read_shard(receipt)
    assert receipt.start is not None and receipt.stop is not None, receipt.part
    check_shard(columns, receipt.start, receipt.stop)
    if rows_sha256(columns) != receipt.rows_sha256:
        raise CorruptObject(
            f"{steps.name} {receipt.part}: expected rows with sha256 {receipt.rows_sha256}, found {rows_sha256(columns)}; "
            "run `verify --repair` to rebuild it"
        )
