"""The text of `status`: how far a run is.

It comes from the store alone and reads little of it: listings, a sample of each step's receipts, the notes that workers leave of their
attempts. The clocks are those of the hosts that wrote.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from dgflow.report.layout import aligned, duration, evenly, parts, printable, row_labels
from dgflow.report.summary import worker_seconds
from dgflow.steps.binding import Root
from dgflow.steps.plan import StepPlan
from dgflow.store.objects import ObjectStore
from dgflow.store.step_store import StepStore

STATUS_SAMPLE = 64
RATE_SAMPLE = 20  # newest commits that the present rate is taken from
SILENCE = 600.0  # seconds without a word after which an attempt, or a run, is taken for dead; longer where a part takes longer
SHOWN_ERROR = 200  # characters of an error in a table; JSON holds all of it


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
    sample = steps.receipts(evenly(list(made.done.values()), STATUS_SAMPLE))
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
    for label, row in zip(row_labels(rows), rows, strict=True):
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
