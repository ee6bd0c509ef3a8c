"""The text of `status`: how far a run is, how fast, what it has cost, what went wrong.

It comes from the store alone and reads little of it: of a step that is not complete at most two listings, a
    sample of its receipts and the
newest notes that workers leave of their attempts; of a complete one the sample. Times are judged by the
    store's own clock: those of the
hosts that wrote may be a day off.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from dgflow.engine.plan import StepPlan
from dgflow.engine.root import Root
from dgflow.report.attempts import open_attempts
from dgflow.report.layout import aligned, duration, evenly, parts, printable, row_labels, shortened
from dgflow.report.summary import worker_seconds
from dgflow.store.objects import ObjectStore
from dgflow.store.step_store import StepStore

STATUS_SAMPLE = 64
RATE_SAMPLE = 20  # commits at least, where there are, that the present rate is taken from
# Seconds without a word after which an attempt, or a run, is taken for dead; longer where a part takes longer
SILENCE = 600.0
FIRST_SILENCE = 3600.0  # the same while no part is committed that would tell how long one takes
SHOWN_ERRORS = 5  # of a step, the newest, in a table; JSON holds all
SHOWN_ERROR = 200  # characters of an error in a table; JSON holds all of it


def status_rows(
    plans: Sequence[StepPlan], store: ObjectStore, *, now: float | None = None, price: float | None = None
) -> list[dict[str, Any]]:
    """How far each step is, as JSON data; `now` is the time to judge by, in seconds since the epoch, by
    default the store's.

    `state` is done, running (something was committed or begun lately), stopped (begun, and silent since), to
    do, or waiting (for what it reads). `in_flight` are the attempts under way, `failed` those that ended in
    an error, of parts that are not committed, newest first; `part` is the number of the shard or epoch.
    `rate_per_minute` is that of the newest commits, `seconds_left` what it promises while the step is
    running, `worker_seconds` the work in committed parts (exact up to 64 parts, then estimated from 64), and,
    with the `price` of an hour of a worker, `money` what that comes to.
    """
    root, moment = Root(store), store.now() if now is None else now
    rows = [_status_row(made, root.step_store(made.step), moment) for made in plans]
    return rows if price is None else [row | {"money": row["worker_seconds"] / 3600 * price} for row in rows]


def status_total(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the rows come to: `done` and `wanted` parts, `in_flight` and `failed` as numbers, `worker_seconds`
    and, where known, `money`.

    `state` is done where every step is, running where one is, stopped where one is begun, else to do.
    """
    states = [row["state"] for row in rows]
    begun = any(row["done"] for row in rows) or "stopped" in states
    state = (
        "done"
        if set(states) <= {"done"}
        else "running"
        if "running" in states
        else "stopped"
        if begun
        else "to do"
    )
    total: dict[str, Any] = {"state": state, "steps": len(rows), "steps_done": states.count("done")}
    total |= {key: sum(len(row[key]) for row in rows) for key in ("in_flight", "failed")}
    keys = ("done", "wanted", "worker_seconds", *(["money"] if rows and "money" in rows[0] else []))
    return total | {key: sum(row[key] for row in rows) for key in keys}


def _status_row(made: StepPlan, steps: StepStore, now: float) -> dict[str, Any]:
    sample = steps.receipts(evenly(list(made.done.values()), STATUS_SAMPLE))
    longest = max((receipt.seconds for receipt in sample), default=0.0)
    patience = max(SILENCE, 3 * longest) if sample else FIRST_SILENCE
    moments = [] if made.complete else _moments(made, steps)
    # What waits for its inputs has not begun, whatever is there of earlier ones.
    attempts = [] if made.complete or made.bound is None else open_attempts(steps, made.folder, made.missing)
    in_flight = [
        attempt.under_way()
        for attempt in attempts
        if not attempt.has_failed and now - attempt.noted < patience
    ]
    per_second = (
        _rate(moments, patience, fmean(receipt.seconds for receipt in sample)) if sample and moments else None
    )
    running = bool(in_flight) or (bool(moments) and now - moments[-1] < patience)
    begun = bool(made.done or attempts)
    state = (
        "done"
        if made.complete
        else "running"
        if running
        else "stopped"
        if begun
        else "waiting"
        if made.bound is None
        else "to do"
    )
    return {
        "name": made.step.name,
        "title": made.step.title,
        "kind": made.step.kind,
        "state": state,
        "done": len(made.done),
        "wanted": len(made.wanted),
        "unit": made.unit,
        "in_flight": sorted(in_flight, key=lambda attempt: attempt["part"]),
        "failed": [attempt.failure() for attempt in attempts if attempt.has_failed],
        "rate_per_minute": None if per_second is None else 60 * per_second,
        "seconds_left": len(made.missing) / per_second if per_second is not None and running else None,
        "worker_seconds": fmean(map(worker_seconds, sample)) * len(made.done) if sample else 0.0,
    }


def _moments(made: StepPlan, steps: StepStore) -> list[float]:
    """When each part was committed, in seconds since the epoch, in order: one listing."""
    ours = set(made.done.values())
    return (
        sorted(
            entry.modified for entry in steps.store.list(f"{steps.name}/{made.folder}") if entry.key in ours
        )
        if ours
        else []
    )


def _rate(moments: Sequence[float], patience: float, seconds: float) -> float | None:
    """Commits a second of late; `seconds` is what one takes. None where that cannot be told.

    Goes back from the newest, not over a pause, over at least `RATE_SAMPLE` commits and two rounds of work:
        many workers that began
    together also commit together, and a single burst tells nothing of the time until the next.
    """
    first = next(
        (place for place in range(len(moments) - 1, 0, -1) if moments[place] - moments[place - 1] > patience),
        0,
    )
    run = moments[first:]
    enough = next(
        (place for place in range(len(run) - RATE_SAMPLE, -1, -1) if run[-1] - run[place] >= 2 * seconds),
        None,
    )
    if enough is None:  # from the beginning, which was one part's work before the first commit
        whole = run[-1] - run[0] + seconds
        return len(run) / whole if whole > 0 else None
    late = run[enough:]
    return (len(late) - 1) / (late[-1] - late[0]) if late[-1] > late[0] else None


def status_table(rows: Sequence[dict[str, Any]], now: float | None = None) -> str:
    """`status_rows` as a table with a total, and lines for the newest failed attempts; `now` as there, to
    tell how long ago they failed."""
    cells = [
        ["step", "done", "", "state", "in flight", "failed", "a minute", "left", "work so far", "cost so far"]
    ]
    for label, row in zip(row_labels(rows), rows, strict=True):
        rate, left = row["rate_per_minute"], row["seconds_left"]
        numbers = [
            "" if rate is None or row["state"] == "done" else f"{rate:.3g}",
            "" if left is None else duration(left),
        ]
        cells.append(
            [
                shortened(label),
                *_cells(row | {key: len(row[key]) for key in ("in_flight", "failed")}, numbers),
            ]
        )
    total = status_total(rows)
    cells.append(["total", *_cells(total | {"unit": ""}, ["", ""])])
    if "money" not in total:
        cells = [row[:-1] for row in cells]
    lines = aligned(cells, left=(0, 2, 3))
    out = [lines[0]]
    for line, row in zip(lines[1:-1], rows, strict=True):
        out += [line, *_failures(row, now)]
    return "\n".join([*out, lines[-1]])


def _cells(row: dict[str, Any], numbers: Sequence[str]) -> list[str]:
    return [
        f"{row['done']:,} of {row['wanted']:,}",
        row["unit"],
        row["state"],
        *(f"{row[key]:,}" if row[key] else "" for key in ("in_flight", "failed")),
        *numbers,
        duration(row["worker_seconds"]) if row["done"] else "",
        f"{row['money']:,.2f}" if row["done"] and "money" in row else "",
    ]


def _failures(row: dict[str, Any], now: float | None) -> list[str]:
    """A line for each of the newest failed attempts: what failed, where and when, the error, its place, where
    more is to read."""
    unit, lines = parts(1, row["unit"]).removeprefix("1 "), []
    for failure in row["failed"][:SHOWN_ERRORS]:
        told = {
            name: printable(str(failure[name]))
            for name in ("host", "pid", "error", "where", "log")
            if failure[name] is not None
        }
        error = told["error"] if len(told["error"]) <= SHOWN_ERROR else f"{told['error'][:SHOWN_ERROR]}…"
        ago = "" if now is None else f", {duration(max(0.0, now - failure['failed']))} ago"
        at = f"; at {told['where']}" if "where" in told else ""
        log = f"; log {told['log']} there" if "log" in told else ""
        process = f", process {told['pid']}" if "pid" in told else ""
        lines.append(
            f"  failed: {unit} {failure['part']} on {told.get('host', 'an unknown host')}{process}{ago}: "
            f"{error}{at}{log}"
        )
    if (more := len(row["failed"]) - SHOWN_ERRORS) > 0:
        lines.append(f"  and {more:,} more: --json has them all")
    return lines
