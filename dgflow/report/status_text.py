"""The text of `status`: progress, rate, cost and failures of a run.

All information comes from the store, with few requests. An incomplete step takes two listings, a sample of
its receipts and the newest notes of attempts; a complete step takes only the sample. Times are compared by
the store's own clock, since the clocks of the writing hosts may differ by a day.

A step is running if the heartbeat of a driver says so (`dgflow/store/runs.py`). A root of an earlier version,
without records of runs, is judged by its newest commits and attempts.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from dgflow.engine.plan import StepPlan
from dgflow.report.attempts import open_attempts
from dgflow.report.columns import Column, fitted
from dgflow.report.layout import duration, evenly, parts, row_labels
from dgflow.report.seen import Seen, of_plan
from dgflow.report.summary import worker_seconds
from dgflow.runtime.terminal import UNLIMITED, printable, terminal_width
from dgflow.runtime.training.notes import within_epoch
from dgflow.store.objects import ObjectStore
from dgflow.store.runs import Driver
from dgflow.store.step_store import StepStore

STATUS_SAMPLE = 64
RATE_SAMPLE = 20  # commits from which the current rate is computed, or all if there are fewer
SILENCE = 600.0  # seconds after which a silent attempt or run counts as dead; longer if parts take longer
FIRST_SILENCE = 3600.0  # the same while no committed part shows how long a part takes
SHOWN_ERRORS = 5  # maximum number of errors per step in a table, newest first; JSON holds all
SHOWN_ERROR = 200  # maximum characters of an error in a table; JSON holds the whole text

COLUMNS = (  # in a narrow terminal the least important ones move below their rows first
    Column("step", left=True),
    Column("done"),
    Column("", left=True),
    Column("state", left=True),
    Column("in flight", moves=3),
    Column("failed", moves=4),
    Column("per minute", moves=2),
    Column("left"),
    Column("work so far", moves=1),
    Column("cost so far", moves=0),
)


def status_rows(
    plans: Sequence[StepPlan],
    store: ObjectStore,
    *,
    now: float | None = None,
    price: float | None = None,
    drivers: Sequence[Driver] | None = None,
) -> list[dict[str, Any]]:
    """Returns the state of each step of a plan as JSON data; see `rows_of`."""
    seen = [of_plan(step_plan, store) for step_plan in plans]
    return rows_of(seen, now=store.now() if now is None else now, price=price, drivers=drivers)


def rows_of(
    steps: Sequence[Seen], *, now: float, price: float | None = None, drivers: Sequence[Driver] | None = None
) -> list[dict[str, Any]]:
    """Returns the state of each step as JSON data.

    - `state` is done, running, stopped (started, but no driver works on it), to do, or waiting (for inputs).
    - `in_flight` lists the attempts in progress; for a training with the step within the epoch and the loss.
    - `failed` lists failed attempts at parts that are not committed, newest first; `part` is the number of
      the shard or epoch.
    - `safe` is the newest checkpoint within an epoch: `part` is the epoch, `step` of `steps` the position.
    - `rate_per_minute` is computed from the newest commits.
    - `seconds_left` is the driver's estimate, or else follows from the rate while the step is running.
    - `worker_seconds` is the work in committed parts, exact up to 64 parts, then estimated from 64.
    - `money`, with a `price`, is the cost of that work.

    Args:
        now: the time of the judgement, in seconds since the epoch by the store's clock.
        price: the price per worker-hour.
        drivers: the drivers of the root. A step is running if a live one works on it. With None, for roots
            without records of runs, commits and attempts decide.
    """
    rows = [_row(step, now, drivers) for step in steps]
    return rows if price is None else [row | {"money": row["worker_seconds"] / 3600 * price} for row in rows]


def status_total(rows: Sequence[dict[str, Any]], drivers: Sequence[Driver] | None = None) -> dict[str, Any]:
    """Returns the totals of the rows as JSON data.

    - `state` is done if every step is done, running if a driver is alive or a step is running, stopped if a
      step has started, and otherwise to do.
    - `done`, `wanted`, `in_flight` and `failed` are numbers of parts and attempts.
    - `worker_seconds` and, if known, `money` are sums.
    - `seconds_left` is the drivers' estimate for all steps except the number of `steps_untimed`.
    """
    states = [row["state"] for row in rows]
    begun = any(row["done"] for row in rows) or "stopped" in states
    living = [driver for driver in drivers or () if driver.alive]
    state = _state(set(states) <= {"done"}, "running" in states or bool(living), begun)
    total: dict[str, Any] = {"state": state, "steps": len(rows), "steps_done": states.count("done")}
    total |= {key: sum(len(row[key]) for row in rows) for key in ("in_flight", "failed")}
    keys = ("done", "wanted", "worker_seconds", *(["money"] if rows and "money" in rows[0] else []))
    total |= {key: sum(row[key] for row in rows) for key in keys}
    left = [run_left(driver) for driver in living]
    known = [seconds for seconds in left if seconds is not None]
    total["seconds_left"] = max(known, default=None)
    total["steps_untimed"] = max((driver.beat.untimed for driver in living), default=None)
    return total


def run_left(driver: Driver) -> float | None:
    """Returns a driver's estimate of the seconds left, without steps not yet timed; None without an
    estimate."""
    return None if driver.beat.run_left is None else max(0.0, driver.beat.run_left - driver.silent)


def _state(done: bool, running: bool, begun: bool, waiting: bool = False) -> str:
    states = {"done": done, "running": running, "stopped": begun, "waiting": waiting, "to do": True}
    return next(state for state, holds in states.items() if holds)


def _row(step: Seen, now: float, drivers: Sequence[Driver] | None) -> dict[str, Any]:
    step_store = step.step_store
    keys = evenly(list(step.done.values()), STATUS_SAMPLE)
    sample = step_store.receipts(keys) if step_store is not None else []
    longest = max((receipt.seconds for receipt in sample), default=0.0)
    patience = max(SILENCE, 3 * longest) if sample else FIRST_SILENCE
    moments = [] if step.complete or step_store is None else _moments(step, step_store)
    # A step that waits for its inputs has not started, even if earlier parts exist.
    readable = not step.waiting and not step.complete and step_store is not None
    attempts = open_attempts(step_store, step.folder, step.missing) if readable and step_store else []
    driver = next((each for each in drivers or () if each.alive and each.beat.step == step.name), None)
    open_ones = [attempt for attempt in attempts if not attempt.has_failed]
    in_flight = [attempt.under_way() for attempt in open_ones if now - attempt.noted < patience]
    if drivers is None:
        running = bool(in_flight) or (bool(moments) and now - moments[-1] < patience)
    else:
        running, in_flight = driver is not None, in_flight if driver is not None else []
    per_second = None
    if sample and moments:
        per_second = _rate(moments, patience, fmean(receipt.seconds for receipt in sample))
    left = len(step.missing) / per_second if per_second is not None and running else None
    if driver is not None and driver.beat.step_left is not None:
        left = max(0.0, driver.beat.step_left - driver.silent)
    begun = bool(step.done or attempts)
    return {
        "name": step.name,
        "title": step.title,
        "kind": step.kind,
        "state": _state(step.complete, running, begun, waiting=step.waiting),
        "done": len(step.done),
        "wanted": len(step.wanted),
        "unit": step.unit,
        "in_flight": sorted(in_flight, key=lambda attempt: attempt["part"]),
        "failed": [attempt.failure() for attempt in attempts if attempt.has_failed],
        "safe": next((safe for attempt in attempts if (safe := attempt.safe()) is not None), None),
        "rate_per_minute": None if per_second is None else 60 * per_second,
        "seconds_left": left,
        "worker_seconds": fmean(map(worker_seconds, sample)) * len(step.done) if sample else 0.0,
    }


def _per_minute(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _moments(step: Seen, step_store: StepStore) -> list[float]:
    """Returns the times of all commits in order, in seconds since the epoch, from one listing."""
    ours = set(step.done.values())
    entries = step_store.store.list(f"{step_store.name}/{step.folder}") if ours else []
    return sorted(entry.modified for entry in entries if entry.key in ours)


def _rate(moments: Sequence[float], patience: float, seconds: float) -> float | None:
    """Returns the recent number of commits per second, None if it cannot be estimated.

    The rate covers the newest commits back to the last pause, at least `RATE_SAMPLE` of them and two rounds
    of work. Workers that start together also commit together, so a single burst does not show the time until
    the next one.

    Args:
        patience: a longer time in seconds between two commits is a pause.
        seconds: the mean time that one part takes.
    """
    backwards = range(len(moments) - 1, 0, -1)
    run = moments[next((i for i in backwards if moments[i] - moments[i - 1] > patience), 0) :]
    backwards = range(len(run) - RATE_SAMPLE, -1, -1)
    enough = next((i for i in backwards if run[-1] - run[i] >= 2 * seconds), None)
    if enough is None:  # since the start of the work, one part's time before the first commit
        whole = run[-1] - run[0] + seconds
        return len(run) / whole if whole > 0 else None
    late = run[enough:]
    return (len(late) - 1) / (late[-1] - late[0]) if late[-1] > late[0] else None


def status_table(
    rows: Sequence[dict[str, Any]], now: float | None = None, drivers: Sequence[Driver] | None = None
) -> str:
    """Formats `status_rows` as a table that fits the terminal, with a total. Below a row are the epochs in
    training and the newest failed attempts, with their age at `now`."""
    cells: list[list[str]] = []
    for label, row in zip(row_labels(rows), rows, strict=True):
        rate, left = row["rate_per_minute"], row["seconds_left"]
        numbers = [
            "" if rate is None or row["state"] == "done" else _per_minute(rate),
            "" if left is None else duration(left),
        ]
        counts = {key: len(row[key]) for key in ("in_flight", "failed")}
        cells.append([label, *_cells(row | counts, numbers)])
    total = status_total(rows, drivers)
    left = "" if total["seconds_left"] is None else duration(total["seconds_left"])
    cells.append(["total", *_cells(total | {"unit": ""}, ["", left])])
    columns = COLUMNS if "money" in total else COLUMNS[:-1]
    shown = [row[: len(columns)] for row in cells]
    heading, *body, last = fitted(columns, shown, label=0, width=terminal_width(UNLIMITED))
    details = ([*_epochs(row), *_failures(row, now)] for row in rows)
    lines = [line for own, below in zip(body, details, strict=True) for line in (*own, *below)]
    return "\n".join([*heading, *lines, *last])


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


def _epochs(row: dict[str, Any]) -> list[str]:
    """Returns a line per epoch in training: its step, the loss so far, and the step that a checkpoint
    holds. Without an epoch in training it returns a line for that checkpoint alone."""
    lines = [
        f"  epoch {attempt['part']}: {within_epoch(attempt)}"
        for attempt in row["in_flight"]
        if "step" in attempt
    ]
    if not lines and (safe := row["safe"]) is not None:
        return [f"  epoch {safe['part']}: step {safe['step']:,} of {safe['steps']:,} safe"]
    return lines


def _failures(row: dict[str, Any], now: float | None) -> list[str]:
    """Returns a line per recent failed attempt: part, host, time, error, line of code and log file."""
    unit, lines = parts(1, row["unit"]).removeprefix("1 "), []
    for failure in row["failed"][:SHOWN_ERRORS]:
        known = {name: printable(str(value)) for name, value in failure.items() if value is not None}
        error = known["error"] if len(known["error"]) <= SHOWN_ERROR else f"{known['error'][:SHOWN_ERROR]}…"
        ago = "" if now is None else f", {duration(max(0.0, now - failure['failed']))} ago"
        at = f"; at {known['where']}" if "where" in known else ""
        log = f"; log {known['log']} on that host" if "log" in known else ""
        process = f", process {known['pid']}" if "pid" in known else ""
        lines.append(
            f"  failed: {unit} {failure['part']} on {known.get('host', 'an unknown host')}{process}{ago}: "
            f"{error}{at}{log}"
        )
    if (more := len(row["failed"]) - SHOWN_ERRORS) > 0:
        lines.append(f"  and {more:,} more: --json has them all")
    return lines
