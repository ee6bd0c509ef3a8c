"""The text of `status`: how far a run is, how fast, what it has cost, what went wrong.

Everything comes from the store, with few requests: for a step that is not complete two listings, a sample of
its receipts and the newest notes of attempts; for a complete one the sample. Times are judged by the store's
own clock: those of the hosts that wrote may be a day off.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from dgflow.engine.plan import StepPlan
from dgflow.engine.root import Root
from dgflow.report.attempts import open_attempts
from dgflow.report.layout import aligned, duration, evenly, parts, printable, row_labels, with_details
from dgflow.report.summary import worker_seconds
from dgflow.store.objects import ObjectStore
from dgflow.store.step_store import StepStore

STATUS_SAMPLE = 64
RATE_SAMPLE = 20  # the fewest commits, where there are as many, for the present rate
SILENCE = (
    600.0  # seconds after which a silent attempt or run is taken for dead; longer where parts take longer
)
FIRST_SILENCE = 3600.0  # the same while no committed part tells how long one takes
SHOWN_ERRORS = 5  # the newest per step in a table; JSON holds all
SHOWN_ERROR = 200  # characters of an error in a table; JSON holds all of it


def status_rows(
    plans: Sequence[StepPlan], store: ObjectStore, *, now: float | None = None, price: float | None = None
) -> list[dict[str, Any]]:
    """The state of each step as JSON data, judged at `now`, in seconds since the epoch, by default the
    store's.

    `state` is done, running (committed or begun something lately), stopped (begun, and silent since), to do,
    or waiting (for what it reads). `in_flight` are the attempts under way, `failed` those that ended in an
    error, of parts that are not committed, newest first; `part` is the number of the shard or epoch.
    `rate_per_minute` is that of the newest commits, `seconds_left` follows from it while the step is running,
    `worker_seconds` is the work in committed parts (exact up to 64 parts, then estimated from 64), and
    `money` its cost with the `price` per worker-hour.
    """
    root, moment = Root(store), store.now() if now is None else now
    rows = [_status_row(step_plan, root.step_store(step_plan.step), moment) for step_plan in plans]
    return rows if price is None else [row | {"money": row["worker_seconds"] / 3600 * price} for row in rows]


def status_total(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The sum of the rows: `done` and `wanted` parts, `in_flight` and `failed` as numbers, `worker_seconds`
    and, where known, `money`.

    `state` is done where every step is, running where one is, stopped where one is begun, else to do.
    """
    states = [row["state"] for row in rows]
    begun = any(row["done"] for row in rows) or "stopped" in states
    state = _state(set(states) <= {"done"}, "running" in states, begun)
    total: dict[str, Any] = {"state": state, "steps": len(rows), "steps_done": states.count("done")}
    total |= {key: sum(len(row[key]) for row in rows) for key in ("in_flight", "failed")}
    keys = ("done", "wanted", "worker_seconds", *(["money"] if rows and "money" in rows[0] else []))
    return total | {key: sum(row[key] for row in rows) for key in keys}


def _state(done: bool, running: bool, begun: bool, waiting: bool = False) -> str:
    states = {"done": done, "running": running, "stopped": begun, "waiting": waiting, "to do": True}
    return next(state for state, holds in states.items() if holds)


def _status_row(step_plan: StepPlan, step_store: StepStore, now: float) -> dict[str, Any]:
    sample = step_store.receipts(evenly(list(step_plan.done.values()), STATUS_SAMPLE))
    longest = max((receipt.seconds for receipt in sample), default=0.0)
    patience = max(SILENCE, 3 * longest) if sample else FIRST_SILENCE
    moments = [] if step_plan.complete else _moments(step_plan, step_store)
    # What waits for its inputs has not begun, whatever is there of earlier ones.
    readable = step_plan.bound is not None and not step_plan.complete
    attempts = open_attempts(step_store, step_plan.folder, step_plan.missing) if readable else []
    open_ones = [attempt for attempt in attempts if not attempt.has_failed]
    in_flight = [attempt.under_way() for attempt in open_ones if now - attempt.noted < patience]
    per_second = None
    if sample and moments:
        per_second = _rate(moments, patience, fmean(receipt.seconds for receipt in sample))
    running = bool(in_flight) or (bool(moments) and now - moments[-1] < patience)
    state = _state(
        step_plan.complete, running, bool(step_plan.done or attempts), waiting=step_plan.bound is None
    )
    return {
        "name": step_plan.step.name,
        "title": step_plan.step.title,
        "kind": step_plan.step.kind,
        "state": state,
        "done": len(step_plan.done),
        "wanted": len(step_plan.wanted),
        "unit": step_plan.unit,
        "in_flight": sorted(in_flight, key=lambda attempt: attempt["part"]),
        "failed": [attempt.failure() for attempt in attempts if attempt.has_failed],
        "rate_per_minute": None if per_second is None else 60 * per_second,
        "seconds_left": len(step_plan.missing) / per_second if per_second is not None and running else None,
        "worker_seconds": fmean(map(worker_seconds, sample)) * len(step_plan.done) if sample else 0.0,
    }


def _moments(step_plan: StepPlan, step_store: StepStore) -> list[float]:
    """The times of all commits, in seconds since the epoch, in order: one listing."""
    ours = set(step_plan.done.values())
    entries = step_store.store.list(f"{step_store.name}/{step_plan.folder}") if ours else []
    return sorted(entry.modified for entry in entries if entry.key in ours)


def _rate(moments: Sequence[float], patience: float, seconds: float) -> float | None:
    """Recent commits per second, or None; `seconds` is what one takes.

    Counted back from the newest, up to a pause, over at least `RATE_SAMPLE` commits and two rounds of work:
    many workers that began together also commit together, and one burst tells nothing of the time until the
    next.
    """
    backwards = range(len(moments) - 1, 0, -1)
    run = moments[next((i for i in backwards if moments[i] - moments[i - 1] > patience), 0) :]
    backwards = range(len(run) - RATE_SAMPLE, -1, -1)
    enough = next((i for i in backwards if run[-1] - run[i] >= 2 * seconds), None)
    if enough is None:  # from the beginning, which was one part's work before the first commit
        whole = run[-1] - run[0] + seconds
        return len(run) / whole if whole > 0 else None
    late = run[enough:]
    return (len(late) - 1) / (late[-1] - late[0]) if late[-1] > late[0] else None


def status_table(rows: Sequence[dict[str, Any]], now: float | None = None) -> str:
    """`status_rows` as a table with a total and the newest failed attempts, whose age is judged at `now`."""
    cells = [
        ["step", "done", "", "state", "in flight", "failed", "a minute", "left", "work so far", "cost so far"]
    ]
    for label, row in zip(row_labels(rows), rows, strict=True):
        rate, left = row["rate_per_minute"], row["seconds_left"]
        numbers = [
            "" if rate is None or row["state"] == "done" else f"{rate:.3g}",
            "" if left is None else duration(left),
        ]
        counts = {key: len(row[key]) for key in ("in_flight", "failed")}
        cells.append([label, *_cells(row | counts, numbers)])
    total = status_total(rows)
    cells.append(["total", *_cells(total | {"unit": ""}, ["", ""])])
    if "money" not in total:
        cells = [row[:-1] for row in cells]
    failures = (_failures(row, now) for row in rows)
    return "\n".join(with_details(aligned(cells, left=(0, 2, 3)), failures))


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
    """A line per recent failed attempt: the part, host, time, error, line of code and log file."""
    unit, lines = parts(1, row["unit"]).removeprefix("1 "), []
    for failure in row["failed"][:SHOWN_ERRORS]:
        known = {name: printable(str(value)) for name, value in failure.items() if value is not None}
        error = known["error"] if len(known["error"]) <= SHOWN_ERROR else f"{known['error'][:SHOWN_ERROR]}…"
        ago = "" if now is None else f", {duration(max(0.0, now - failure['failed']))} ago"
        at = f"; at {known['where']}" if "where" in known else ""
        log = f"; log {known['log']} there" if "log" in known else ""
        process = f", process {known['pid']}" if "pid" in known else ""
        lines.append(
            f"  failed: {unit} {failure['part']} on {known.get('host', 'an unknown host')}{process}{ago}: "
            f"{error}{at}{log}"
        )
    if (more := len(row["failed"]) - SHOWN_ERRORS) > 0:
        lines.append(f"  and {more:,} more: --json has them all")
    return lines
