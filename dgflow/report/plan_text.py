"""The text of `plan`: the work, size and time that a recipe still needs.

Sizes and times are estimates from a sample of each step's receipts; where there is none, sizes are upper
bounds from the steps' fields, and hours come from `Costs`, if asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from dgflow.engine.plan import StepPlan
from dgflow.engine.root import Root
from dgflow.estimate.estimates import Costs, Estimate
from dgflow.report.layout import aligned, duration, evenly, row_labels, size, with_details, wrapped
from dgflow.report.summary import worker_seconds
from dgflow.specs.step import SampleStep, Step
from dgflow.store.objects import ObjectStore

ESTIMATE_SAMPLE = 16  # receipts per step that an estimate reads, of 10,000 shards too
HINT = (
    "hours and money: --device NAME, such as h100, by its published rate, or --pilot, by one batch here; and "
    "--price P an hour"
)


@dataclass(frozen=True)
class _Rate:
    """Mean cost of one sample, epoch or result; `row` is the bytes of a sample by the step's fields, if
    any."""

    seconds: float  # of work, all workers together
    bytes: float
    row: int | None
    own: bool = False  # from receipts of the step itself


def plan_json(
    plans: Sequence[StepPlan], store: ObjectStore | None = None, costs: Costs | None = None
) -> dict[str, Any]:
    """`steps`, in the order in which they are run, and their `total`, of what is still to do.

    `worker_hours` and `bytes` are estimates from receipts of the same step, else of others of its kind in
    this plan (`bytes_from` is "receipts"). Without any, or without `store`, `worker_hours` is None, and
    `bytes` an upper bound from the step's fields (`bytes_from` is "fields") or None. `costs` adds
    `parameters`, `flops` (None of a pilot), `device_hours` and, with a price per hour, `money`; `costs` then
    tells their assumptions.
    """
    rates = _rates(plans, store) if store is not None else {}
    estimates = {} if costs is None else costs.steps
    steps = [
        _plan_row(step_plan, _rate(step_plan, plans, rates), estimates.get(step_plan.step.fingerprint))
        for step_plan in plans
    ]
    total: dict[str, Any] = {key: sum(step[key] for step in steps) for key in ("done", "todo", "evaluations")}
    total |= {key: sum(step[key] or 0 for step in steps) for key in ("bytes", "worker_hours")}
    total |= {
        "unknown": [step["name"] for step in steps if step["worker_hours"] is None],
        "unknown_bytes": [step["name"] for step in steps if step["bytes"] is None],
    }
    if costs is None:
        return {"steps": steps, "total": total}
    for step, step_plan in zip(steps, plans, strict=True):
        step |= _cost(estimates.get(step_plan.step.fingerprint), costs.price)
    keys = ["flops", "device_hours", *(["money"] if costs.price is not None else [])]
    total |= {
        key: sum(step[key] for step in steps) if all(step[key] is not None for step in steps) else None
        for key in keys
    }
    return {
        "steps": steps,
        "total": total,
        "costs": {"device": costs.device, "assumptions": costs.assumptions, "price": costs.price},
    }


def plan_table(plans: Sequence[StepPlan], store: ObjectStore, costs: Costs | None = None) -> str:
    """`plan_json` as a table, with a reason below each step that is not reused."""
    data = plan_json(plans, store, costs)
    steps, total = data["steps"], data["total"]
    titles = ["worker time", "kept in"]
    if costs is not None:
        titles = ["parameters", f"{costs.device} hours", *(["cost"] if costs.price is not None else [])]
    rows = [["", "step", "done", "to do", "", "size", "evaluations", *titles]]
    for label, step in zip(row_labels(steps), steps, strict=True):
        mine = [_hours_left(step), step["name"]] if costs is None else _costs_shown(step, costs)
        rows.append(
            [
                step["action"],
                label,
                f"{step['done']:,}",
                f"{step['todo']:,}",
                step["unit"],
                _size(step),
                _evaluations(step),
                *mine,
            ]
        )
    mine = [_hours_left(total) + " + ?" * bool(total["unknown"]), ""]
    if costs is not None:
        mine = _costs_shown(total | {"parameters": 0}, costs)
    bound = {"bytes_from": "fields" if any(step["bytes_from"] == "fields" for step in steps) else "receipts"}
    whole = _size(total | bound) + " + ?" * bool(total["unknown_bytes"])
    counts = [f"{len(steps):,} steps", f"{total['done']:,}", f"{total['todo']:,}", "", whole]
    rows.append(["total", *counts, _evaluations(total), *mine])
    lines = aligned(rows, left=(0, 1, 4, *((8,) if costs is None else ())))
    reasons = (wrapped(step["reason"], " " * 9) for step in steps)
    return "\n".join([*with_details(lines, reasons), *_notes(total, costs)])


def _notes(total: dict[str, Any], costs: Costs | None) -> list[str]:
    """The basis of the columns."""
    if not total["todo"]:
        return []
    notes = ["≤: at most, uncompressed, where no receipt of such a step says more"]
    if costs is None:
        if total["unknown"]:
            notes.append(
                "?: no receipt of such a step to estimate from yet, or of weights; the latter are known "
                "with --device"
            )
        return [*notes, HINT]
    notes.append(
        "evaluations: of score networks, feature networks and autoencoders; hours have those of guides and "
        "training in them, too"
    )
    notes.append(f"{costs.device} hours: {costs.assumptions}.")
    notes.append(
        "Not in them: reading and writing data, metrics on features, optimisers, talk between devices, "
        "waiting."
    )
    return [line for note in notes for line in wrapped(note)]


def _size(row: dict[str, Any]) -> str:
    if not row["todo"] or row["bytes"] is None:
        return "?" if row["todo"] else ""
    return ("≤ " if row["bytes_from"] == "fields" else "") + size(row["bytes"])


def _evaluations(row: dict[str, Any]) -> str:
    return f"{row['evaluations']:,}" if row["todo"] and row["evaluations"] else ""


def _hours_left(row: dict[str, Any]) -> str:
    if not row["todo"] or row["worker_hours"] is None:
        return "?" if row["todo"] else ""
    return duration(3600 * row["worker_hours"])


def _costs_shown(row: dict[str, Any], costs: Costs) -> list[str]:
    """Parameters, hours and money, empty where no network runs."""
    hours, money = row["device_hours"], row.get("money")
    cells = [_count(row["parameters"]) if row["parameters"] else "", _number(hours) if hours else ""]
    return cells + ([] if costs.price is None else [f"{money:,.2f}" if money else ""])


def _count(parameters: int) -> str:
    """`675.1 M`."""
    for power, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if parameters >= power:
            return f"{parameters / power:.1f} {unit}"
    return f"{parameters}"


def _number(hours: float) -> str:
    if hours < 0.005:
        return "< 0.01"
    return f"{hours:,.2f}" if hours < 10 else f"{hours:,.1f}" if hours < 1000 else f"{hours:,.0f}"


def _plan_row(step_plan: StepPlan, rate: _Rate | None, estimate: Estimate | None) -> dict[str, Any]:
    work, stored = step_plan.amount, None if estimate is None else estimate.bytes
    # Another step's samples compress alike where they hold as much.
    from_receipts = rate is not None and (
        rate.own or (rate.row is not None and rate.row == _row(step_plan.step))
    )
    if rate is not None and from_receipts:
        stored = round(rate.bytes * work)
    elif stored is None:
        stored = step_plan.stored_bytes
    return {
        "name": step_plan.step.name,
        "title": step_plan.step.title,
        "action": step_plan.action,
        "reason": step_plan.reason,
        "done": len(step_plan.done),
        "todo": len(step_plan.missing),
        "unit": step_plan.unit,
        "bytes": stored if work else 0,
        "bytes_from": None if not work or stored is None else "receipts" if from_receipts else "fields",
        "evaluations": step_plan.evaluations,
        "worker_hours": 0.0 if not work else None if rate is None else rate.seconds * work / 3600,
    }


def _cost(estimate: Estimate | None, price: float | None) -> dict[str, Any]:
    if estimate is None:
        return {"parameters": 0, "flops": 0.0, "device_hours": 0.0} | (
            {} if price is None else {"money": 0.0}
        )
    hours = estimate.seconds / 3600
    cost = {"parameters": estimate.parameters, "flops": estimate.flops, "device_hours": hours}
    return cost | ({} if price is None else {"money": hours * price})


def _row(step: Step) -> int | None:
    return step.row_bytes if isinstance(step, SampleStep) else None


def _rates(plans: Sequence[StepPlan], store: ObjectStore) -> dict[str, _Rate]:
    """By fingerprint, of the steps that have receipts and whose kind something is to be done of."""
    root = Root(store)
    kinds = {step_plan.step.kind for step_plan in plans if step_plan.missing}
    rates: dict[str, _Rate] = {}
    for step_plan in plans:
        if step_plan.step.kind in kinds:
            step_store = root.step_store(step_plan.step)
            # Made from earlier inputs is as good for an estimate.
            keys = list(step_plan.done.values()) or [
                key for of in step_store.committed(step_plan.folder).values() for key in of.values()
            ]
            receipts = step_store.receipts(evenly(keys, ESTIMATE_SAMPLE))
            if receipts:
                work = sum(
                    1 if receipt.start is None or receipt.stop is None else receipt.stop - receipt.start
                    for receipt in receipts
                )
                seconds, kept = sum(map(worker_seconds, receipts)), sum(receipt.bytes for receipt in receipts)
                rates[step_plan.step.fingerprint] = _Rate(
                    seconds / work, kept / work, _row(step_plan.step), own=True
                )
    return rates


def _rate(step_plan: StepPlan, plans: Sequence[StepPlan], rates: dict[str, _Rate]) -> _Rate | None:
    """The step's own, else the mean of the others of its kind; of several sizes of samples, their time
    alone."""
    if step_plan.step.fingerprint in rates:
        return rates[step_plan.step.fingerprint]
    alike = [
        rates[other.step.fingerprint]
        for other in plans
        if other.step.kind == step_plan.step.kind and other.step.fingerprint in rates
    ]
    if not alike:
        return None
    same = [rate for rate in alike if rate.row == _row(step_plan.step)]
    kept, row = (fmean(rate.bytes for rate in same), same[0].row) if same else (0.0, -1)
    return _Rate(fmean(rate.seconds for rate in alike), kept, row)
