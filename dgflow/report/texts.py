"""The texts of `plan` and `status`: what a recipe still takes, and how far a run is.

Both come from the store alone and read little of it: listings, a sample of each step's receipts, the notes that workers leave of their
attempts. So times and sizes to come are estimates from that sample, and the clocks are those of the hosts that wrote.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from dgflow.report.layout import aligned, duration, labels, parts, printable, size
from dgflow.report.summary import worker_seconds
from dgflow.steps.binding import Root
from dgflow.steps.plan import StepPlan
from dgflow.steps.step import SampleStep
from dgflow.store.objects import ObjectStore
from dgflow.store.step_store import StepStore

ESTIMATE_SAMPLE = 16  # receipts of a step that an estimate reads: planning 10,000 shards must not read 10,000 receipts
STATUS_SAMPLE = 64
RATE_SAMPLE = 20  # newest commits that the present rate is taken from
SILENCE = 600.0  # seconds without a word after which an attempt, or a run, is taken for dead; longer where a part takes longer
SHOWN_ERROR = 200  # characters of an error in a table; JSON holds all of it
REASON_WIDTH = 140


@dataclass(frozen=True)
class _Rate:
    """Mean cost of one sample, epoch or result."""

    seconds: float  # of work, all workers together
    bytes: float


def plan_json(plans: Sequence[StepPlan], store: ObjectStore | None = None) -> dict[str, Any]:
    """`steps`, in the order in which they are run, and their `total`.

    `bytes`, `evaluations` and `worker_hours` are of what is still to do; the first and the last are estimates from receipts of the same
    step, else of other steps of the same kind in this plan, and None where there are none, or no `store` to read them from.
    """
    rates = _rates(plans, store) if store is not None else {}
    steps = [_plan_row(made, rates.get(made.step.fingerprint) or _of_kind(made, plans, rates)) for made in plans]
    total: dict[str, Any] = {key: sum(step[key] for step in steps) for key in ("done", "todo", "evaluations")}
    total |= {key: sum(step[key] or 0 for step in steps) for key in ("bytes", "worker_hours")}
    return {"steps": steps, "total": total | {"unknown": [step["name"] for step in steps if step["worker_hours"] is None]}}


def plan_table(plans: Sequence[StepPlan], store: ObjectStore) -> str:
    """`plan_json` as a table, a reason below each step that is not reused."""
    found = plan_json(plans, store)
    rows = [["", "step", "done", "to do", "", "size", "evaluations", "worker time", "kept in"]]
    for label, step in zip(_labels(found["steps"]), found["steps"], strict=True):
        counts = [f"{step['done']:,}", f"{step['todo']:,}", step["unit"]]
        rows.append([step["action"], label, *counts, *_cost(step), step["name"]])
    total, unknown = found["total"], found["total"]["unknown"]
    more = " + ?" if unknown else ""
    rows.append(
        [
            "total",
            "",
            f"{total['done']:,}",
            f"{total['todo']:,}",
            "",
            *(cell + more * (column != 1) for column, cell in enumerate(_cost(total))),
            "",
        ]
    )
    lines = aligned(rows, left=(0, 1, 4, 8))
    out = [lines[0]]
    for line, step in zip(lines[1:-1], found["steps"], strict=True):
        out.append(line)
        if step["reason"]:
            out += textwrap.wrap(printable(step["reason"]), REASON_WIDTH, initial_indent=" " * 9, subsequent_indent=" " * 9)
    out.append(lines[-1])
    if unknown:
        out.append("?: no receipt of such a step to estimate from yet")
    return "\n".join(out)


def _labels(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [printable(label) for label in labels((row["title"], row["name"]) for row in rows)]


def _cost(row: dict[str, Any]) -> list[str]:
    """Size, evaluations and worker time of what is to do; empty where nothing is."""
    if not row["todo"]:
        return ["", "", ""]
    hours = "?" if row["worker_hours"] is None else duration(3600 * row["worker_hours"])
    return ["?" if row["bytes"] is None else size(row["bytes"]), f"{row['evaluations']:,}" if row["evaluations"] else "", hours]


def _plan_row(made: StepPlan, rate: _Rate | None) -> dict[str, Any]:
    missing = made.missing
    work = _work_of(made, missing)
    known = rate or (_Rate(0.0, 0.0) if not missing else None)
    return {
        "name": made.step.name,
        "title": made.step.title,
        "action": made.action,
        "reason": made.reason,
        "done": len(made.done),
        "todo": len(missing),
        "unit": made.unit,
        "bytes": None if known is None else round(known.bytes * work),
        "evaluations": made.evaluations,
        "worker_hours": None if known is None else known.seconds * work / 3600,
    }


def _work_of(made: StepPlan, numbers: Iterable[int]) -> int:
    """How many samples these shards hold, or how many epochs or results they are."""
    step = made.step
    return sum(stop - start for start, stop in map(step.shard_range, numbers)) if isinstance(step, SampleStep) else len(list(numbers))


def _rates(plans: Sequence[StepPlan], store: ObjectStore) -> dict[str, _Rate]:
    """By fingerprint, of the steps that have receipts and whose kind something is to be done of."""
    root = Root(store)
    kinds = {made.step.kind for made in plans if made.missing}
    rates: dict[str, _Rate] = {}
    for made in plans:
        if made.step.kind in kinds:
            steps = root.steps(made.step)
            # Made from earlier inputs is as good for an estimate.
            keys = list(made.done.values()) or [key for of in steps.committed(made.folder).values() for key in of.values()]
            receipts = steps.receipts(_spread(keys, ESTIMATE_SAMPLE))
            if receipts:
                work = sum(1 if receipt.start is None or receipt.stop is None else receipt.stop - receipt.start for receipt in receipts)
                cost = sum(map(worker_seconds, receipts))
                rates[made.step.fingerprint] = _Rate(cost / work, sum(receipt.bytes for receipt in receipts) / work)
    return rates


def _of_kind(made: StepPlan, plans: Sequence[StepPlan], rates: dict[str, _Rate]) -> _Rate | None:
    alike = [rates[other.step.fingerprint] for other in plans if other.step.kind == made.step.kind and other.step.fingerprint in rates]
    return _Rate(fmean(rate.seconds for rate in alike), fmean(rate.bytes for rate in alike)) if alike else None


def _spread(keys: Sequence[str], count: int) -> list[str]:
    """At most `count` of the keys, evenly spaced."""
    count = min(count, len(keys))
    return [keys[position * len(keys) // count] for position in range(count)]


def status_rows(plans: Sequence[StepPlan], store: ObjectStore, now: float | None = None) -> list[dict[str, Any]]:
    """How far each step is, as JSON data; `now` is the time to judge by, in seconds since the epoch, by default this host's.

    `state` is done, running (something was committed or begun lately), stopped (begun, and silent since), to do, or waiting (for what it
    reads). `in_flight` are the attempts under way, `failed` those that ended in an error, of parts that are not committed; `part` is the
    number of the shard or epoch. `rate_per_minute` is that of the newest commits, `seconds_left` what it promises while the step is
    running, `worker_seconds` the work so far (exact up to 64 parts, then estimated from 64).
    """
    root, moment = Root(store), time.time() if now is None else now
    return [_status_row(made, root.steps(made.step), moment) for made in plans]


def _status_row(made: StepPlan, steps: StepStore, now: float) -> dict[str, Any]:
    sample = steps.receipts(_spread(list(made.done.values()), STATUS_SAMPLE))
    cost = fmean(map(worker_seconds, sample)) if sample else 0.0
    newest = [] if made.complete else steps.receipts(_newest(made, steps))
    created = sorted(receipt.created for receipt in newest)
    patience = max(SILENCE, 3 * max((receipt.seconds for receipt in sample), default=0.0))
    notes = {} if made.complete else {number: note for number, note in steps.attempts(made.folder).items() if number not in made.done}
    in_flight = [
        {"part": number, "host": note.get("host"), "started": note["started"]}
        for number, note in sorted(notes.items())
        if "error" not in note and now - note.get("started", 0) < patience
    ]
    failed = failures(made, notes)
    per_second = (len(created) - 1) / (created[-1] - created[0]) if len(created) > 1 and created[-1] > created[0] else None
    running = bool(in_flight) or (bool(created) and now - created[-1] < patience)
    begun = bool(made.done or notes)
    state = "done" if made.complete else "running" if running else "stopped" if begun else "waiting" if made.bound is None else "to do"
    return {
        "name": made.step.name,
        "title": made.step.title,
        "kind": made.step.kind,
        "state": state,
        "done": len(made.done),
        "wanted": len(made.wanted),
        "unit": made.unit,
        "in_flight": in_flight,
        "failed": failed,
        "rate_per_minute": None if per_second is None else 60 * per_second,
        "seconds_left": len(made.missing) / per_second if per_second is not None and running else None,
        "worker_seconds": cost * len(made.done),
    }


def failures(made: StepPlan, notes: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """The attempts among `notes` that ended in an error, of parts that are still missing."""
    return [
        {"part": number, "host": note.get("host"), "error": str(note["error"])}
        for number, note in sorted(notes.items())
        if "error" in note and number not in made.done
    ]


def _newest(made: StepPlan, steps: StepStore) -> list[str]:
    """Keys of the newest receipts, by the store's own clock: one listing."""
    ours = set(made.done.values())
    entries = [entry for entry in steps.store.list(f"{steps.name}/{made.folder}") if entry.key in ours]
    return [entry.key for entry in sorted(entries, key=lambda entry: (entry.modified, entry.key))[-RATE_SAMPLE:]]


def status_table(rows: Sequence[dict[str, Any]]) -> str:
    """`status_rows` as a table, with a line for each failed attempt."""
    cells = [["step", "done", "", "state", "in flight", "failed", "a minute", "left", "work so far"]]
    for label, row in zip(_labels(rows), rows, strict=True):
        rate, left = row["rate_per_minute"], row["seconds_left"]
        cells.append(
            [
                label,
                f"{row['done']:,} of {row['wanted']:,}",
                row["unit"],
                row["state"],
                f"{len(row['in_flight'])}" if row["in_flight"] else "",
                f"{len(row['failed'])}" if row["failed"] else "",
                "" if rate is None else f"{rate:.3g}",
                "" if left is None else duration(left),
                duration(row["worker_seconds"]) if row["done"] else "",
            ]
        )
    lines = aligned(cells, left=(0, 2, 3))
    out = [lines[0]]
    for line, row in zip(lines[1:], rows, strict=True):
        out.append(line)
        for failure in row["failed"]:
            error = printable(failure["error"])
            cut = error if len(error) <= SHOWN_ERROR else f"{error[:SHOWN_ERROR]}…"
            out.append(
                f"  failed: {parts(1, row['unit']).removeprefix('1 ')} {failure['part']} on {printable(str(failure['host']))}: {cut}"
            )
    return "\n".join(out)
