"""The text of `plan`: the work, storage and time that a recipe still needs.

Sizes and times are estimated from a sample of each step's receipts. Without receipts, sizes are upper bounds
computed from the steps' fields, and hours come from `Costs`, if requested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dgflow.engine.plan import SHOWN_REASONS, StepPlan
from dgflow.estimate.estimates import Costs, Estimate
from dgflow.report.arms import END, SEVERAL, SHARED, Named, named
from dgflow.report.columns import Column, fitted
from dgflow.report.layout import duration, size
from dgflow.report.plan_rates import Rate, rate_of, rates_by_kind, rates_of, row_of
from dgflow.runtime.terminal import terminal_width, wrapped
from dgflow.store.objects import ObjectStore

HINT = "for hours and cost: --device NAME, such as h100, or --pilot (runs one batch here); --price P per hour"


def plan_json(
    plans: Sequence[StepPlan], store: ObjectStore | None = None, costs: Costs | None = None
) -> dict[str, Any]:
    """Returns the remaining work as JSON data: `steps`, in execution order, and their `total`.

    - `choices` are values that a step took from measurements of its inputs, such as a weight by Gain.
    - `worker_hours` and `bytes` are estimates from receipts of the same step, or else of other steps of its
      kind in this plan (`bytes_from` is "receipts").
    - Without such receipts, or without `store`, `worker_hours` is None, and `bytes` is an upper bound from
      the step's fields (`bytes_from` is "fields") or None.
    - With `costs`, each step also has `parameters`, `flops` (None for a pilot), `device_hours`, for a
      training `training_memory_bytes` (of one batch on one GPU) and, with a price per hour, `money`. The key
      `costs` holds the assumptions.
    """
    rates = rates_of(plans, store) if store is not None else {}
    by_kind = rates_by_kind(plans, rates)
    estimates = {} if costs is None else costs.steps
    steps = [
        _plan_row(step_plan, rate_of(step_plan, rates, by_kind), estimates.get(step_plan.node.key))
        for step_plan in plans
    ]
    for place in named(plans):
        steps[place.number] |= {"group": place.group, "label": place.label}
    total: dict[str, Any] = {key: sum(step[key] for step in steps) for key in ("done", "todo", "evaluations")}
    total |= {key: sum(step[key] or 0 for step in steps) for key in ("bytes", "worker_hours")}
    total |= {
        "unknown": [step["name"] for step in steps if step["worker_hours"] is None],
        "unknown_bytes": [step["name"] for step in steps if step["bytes"] is None],
    }
    if costs is None:
        return {"steps": steps, "total": total}
    for step, step_plan in zip(steps, plans, strict=True):
        step |= _cost(estimates.get(step_plan.node.key), costs.price)
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
    """Formats `plan_json` as a table that fits the terminal, grouped by arm, with the reasons below each step
    that is not reused."""
    data, width, places = plan_json(plans, store, costs), terminal_width(), named(plans)
    labels = {plans[place.number].step.variant: place for place in places}
    rows = [
        [data["steps"][place.number]["action"], place.label, *_cells(data["steps"][place.number], costs)]
        for place in places
    ]
    lines = fitted(_columns(costs), [*rows, _total_row(data, costs)], label=1, width=width)
    table = [*next(lines)]
    indent = " " * (max(len(row[0]) for row in rows) + 2)
    group = END
    for place, row in zip(places, lines, strict=False):
        if place.group != group:
            table.append(group := place.group)
        reasons = [
            *(f"{name}: {choice}" for name, choice in plans[place.number].choices.items()),
            *_reasons(plans[place.number], labels),
        ]
        table += [*row, *(line for reason in reasons for line in wrapped(reason, indent, "  ", width))]
    table += next(lines)
    notes = _notes(data, costs) if any(each.missing for each in plans) else []
    if any(each.changes for each in plans):
        notes.insert(0, "a -> b: a field's value in the most similar step of its kind in the root, and here")
    return "\n".join([*table, *(line for note in notes for line in wrapped(note, hanging="  ", width=width))])


def _reasons(step_plan: StepPlan, labels: Mapping[str, Named]) -> list[str]:
    """Returns a line per reason why a step is not reused. The steps that it waits for are named as in the
    table; `labels` maps each step's `variant` to its place in the table."""
    if step_plan.changes:
        more = len(step_plan.changes) - SHOWN_REASONS
        return [*map(str, step_plan.changes[:SHOWN_REASONS]), *([f"and {more} more"] if more > 0 else [])]
    if not step_plan.waits_for:
        return [step_plan.reason] if step_plan.reason else []
    own = labels[step_plan.step.variant].group
    places = [labels[step.variant] for step in step_plan.waits_for]
    near = (own, SHARED, SEVERAL)
    names = [place.label if place.group in near else f"{place.label} ({place.group})" for place in places]
    more = f" and {len(names) - SHOWN_REASONS} more" if len(names) > SHOWN_REASONS else ""
    earlier = step_plan.reason.partition("; ")[2]
    return [
        f"after {', '.join(names[:SHOWN_REASONS])}{more}",
        *([earlier] if "earlier inputs" in earlier else []),
    ]


def _columns(costs: Costs | None) -> list[Column]:
    """Returns the columns of the table. In a narrow terminal the least important ones move below their rows
    first."""
    columns = [
        Column("", left=True),
        Column("step", left=True),
        Column("done", moves=4),
        Column("to do"),
        Column("", left=True),
        Column("size"),
        Column("evaluations", moves=2),
    ]
    if costs is None:
        return [*columns, Column("worker time"), Column("kept in", left=True, moves=1)]
    money = [] if costs.price is None else [Column("cost")]
    return [*columns, Column("parameters", moves=3), Column(f"{costs.device} hours"), *money]


def _cells(step: dict[str, Any], costs: Costs | None) -> list[str]:
    mine = [_hours_left(step), step["name"]] if costs is None else _costs_shown(step, costs)
    counts = [f"{step['done']:,}", f"{step['todo']:,}", step["unit"]]
    return [*counts, _size(step), _evaluations(step), *mine]


def _total_row(data: dict[str, Any], costs: Costs | None) -> list[str]:
    steps, total = data["steps"], data["total"]
    mine = [_hours_left(total) + " + ?" * bool(total["unknown"]), ""]
    if costs is not None:
        mine = _costs_shown(total | {"parameters": 0}, costs)
    bound = {"bytes_from": "fields" if any(step["bytes_from"] == "fields" for step in steps) else "receipts"}
    whole = _size(total | bound) + " + ?" * bool(total["unknown_bytes"])
    counts = [
        f"{len(steps):,} step{'s' * (len(steps) != 1)}",
        f"{total['done']:,}",
        f"{total['todo']:,}",
        "",
        whole,
    ]
    return ["total", *counts, _evaluations(total), *mine]


def _notes(data: dict[str, Any], costs: Costs | None) -> list[str]:
    """Returns notes that explain the columns."""
    total, notes = data["total"], []
    if any(step["bytes_from"] == "fields" for step in data["steps"]):
        notes.append("≤: upper bound, uncompressed, until a step of that kind was made here")
    if costs is None:
        if total["unknown"]:
            notes.append(
                "?: not known until a step of that kind was made here; the size of weights is known with "
                "--device"
            )
        return [*notes, HINT]
    notes.append(
        "evaluations: of score networks in sampling, feature networks and autoencoders; the hours also "
        "include guidance and training"
    )
    notes.append(f"{costs.device} hours: {costs.assumptions}.")
    notes += _memory_notes(costs)
    notes.append(
        "Not included: reading and writing data, metrics on features, optimisers, communication between "
        "devices, waiting."
    )
    return notes


def _memory_notes(costs: Costs) -> list[str]:
    """Returns a line per distinct training batch: its memory, and a warning if the GPU has less."""
    lines = []
    for estimate in costs.steps.values():
        if (memory := estimate.memory) is None or costs.gpu_bytes is None:
            continue
        whole, parts, gpus = memory.of(1), memory.parts(costs.gpu_bytes), memory.gpus(costs.gpu_bytes)
        line = (
            f"a training batch of {memory.batch:,} takes about {size(whole)} of a GPU's memory in one piece"
        )
        if gpus is None:
            line += f"; warning: not even one of its rows fits into {size(costs.gpu_bytes)}"
        elif gpus > 1:
            line += (
                f"; warning: with {size(costs.gpu_bytes)} it is computed in {parts} parts, with the same "
                f"gradient, or on {gpus} GPUs (--train-workers {gpus})"
            )
        lines.append(f"{line}.")
    return list(dict.fromkeys(lines))


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
    """Returns the cells of parameters, hours and cost, empty if no network runs."""
    hours, money = row["device_hours"], row.get("money")
    cells = [_count(row["parameters"]) if row["parameters"] else "", _number(hours) if hours else ""]
    return cells + ([] if costs.price is None else [f"{money:,.2f}" if money else ""])


def _count(parameters: int) -> str:
    """Formats a number of parameters, such as `675.1 M`."""
    for power, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if parameters >= power:
            return f"{parameters / power:.1f} {unit}"
    return f"{parameters}"


def _number(hours: float) -> str:
    if hours < 0.005:
        return "< 0.01"
    return f"{hours:,.2f}" if hours < 10 else f"{hours:,.1f}" if hours < 1000 else f"{hours:,.0f}"


def _plan_row(step_plan: StepPlan, rate: Rate | None, estimate: Estimate | None) -> dict[str, Any]:
    work, stored = step_plan.amount, None if estimate is None else estimate.bytes
    rows = step_plan.step.amount(step_plan.missing)  # including copied ones
    # Samples of another step compress alike if they have the same uncompressed size.
    from_receipts = rate is not None and (
        rate.own or (rate.row is not None and rate.row == row_of(step_plan.step))
    )
    if rate is not None and from_receipts:
        stored = round(rate.bytes * rows)
    elif stored is None:
        stored = step_plan.stored_bytes
    return {
        "name": step_plan.step.name,
        "title": step_plan.step.title,
        "action": step_plan.action,
        "reason": step_plan.reason,
        "choices": step_plan.choices,
        "done": len(step_plan.done),
        "todo": len(step_plan.missing),
        "unit": step_plan.unit,
        "bytes": stored if rows else 0,
        "bytes_from": None if not rows or stored is None else "receipts" if from_receipts else "fields",
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
    if estimate.memory is not None:
        cost["training_memory_bytes"] = round(estimate.memory.of(1))
    return cost | ({} if price is None else {"money": hours * price})
