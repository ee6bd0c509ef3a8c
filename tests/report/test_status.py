"""`status`: attempts in flight, failed and dead, rates, cost, wrong clocks, and the small number of requests
for a large step."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from report.fake_root import UNFINISHED, fill, new_store, recipe, row_of, steps_of

from dgflow.engine.plan import plan
from dgflow.report.status_text import SHOWN_ERRORS, status_rows, status_table, status_total

DAY = 86_400.0


class Clock:
    """The store's clock, which stands still except for the given seconds after each write."""

    def __init__(self, monkeypatch, now: float, each: float = 0.0) -> None:
        self.now, self.each = now, each
        monkeypatch.setattr("dgflow.store.memory.time", SimpleNamespace(time=self))

    def __call__(self) -> float:
        self.now += self.each
        return self.now


def many(source, monkeypatch, each=30.0, missing=10, took=2.0):
    """Returns 40 shards of "generate seed 103" without the last `missing` ones, with a commit every so many
    seconds."""
    clock = Clock(monkeypatch, 10_000.0, each / 2)  # a shard is two writes: its data, its receipt
    target, store = recipe(source=source, shard_size=10, samples=400), new_store()
    fill(
        target,
        store,
        leave_out=[("generate seed 103", number) for number in range(40 - missing, 40)],
        took=took,
    )
    clock.each = 0.0
    steps = steps_of(target, store, "generate seed 103")
    clock.now = max(entry.modified for entry in store.list(f"{steps.name}/shards")) + 5
    return target, store, clock, steps


def test_a_failed_attempt_is_told_with_its_shard_host_process_error_place_and_log(unfinished, monkeypatch):
    target, store = unfinished
    clock = Clock(monkeypatch, 5_000.0)
    note = {
        "host": "node-7",
        "pid": 33,
        "started": 1000.0,
        "failed": 1001.0,
        "error": "CUDA out of memory\nof 80 GB\x1b[2J",
    }
    steps_of(target, store).note_attempt(
        "shards", 1, note | {"where": "heun.py:88 in heun", "log": "worker-5-01-33.err"}
    )
    clock.now = 5_240.0
    rows = status_rows(plan(target, store), store)
    row = row_of(rows, UNFINISHED)
    told = {
        "part": 1,
        "host": "node-7",
        "pid": 33,
        "failed": 5_000.0,
        "where": "heun.py:88 in heun",
        "log": "worker-5-01-33.err",
    }
    assert row["failed"] == [told | {"error": note["error"]}]
    assert row["in_flight"] == []
    assert (  # and no escape sequence
        "  failed: shard 1 on node-7, process 33, 4 min 00 s ago: CUDA out of memory of 80 GB [2J; at "
        "heun.py:88 in heun; log worker-5-01-33.err on that host"
    ) in status_table(rows, now=store.now()).splitlines()


def test_a_failed_attempt_at_what_was_committed_since_is_not_shown(unfinished):
    target, store = unfinished
    steps_of(target, store).note_attempt(
        "shards", 0, {"host": "node-7", "started": 1.0, "error": "preempted"}
    )
    assert row_of(status_rows(plan(target, store), store), UNFINISHED)["failed"] == []


def test_of_many_failures_the_table_shows_the_newest(source, monkeypatch):
    target, store, clock, steps = many(source, monkeypatch)
    for number in range(39, 29, -1):  # the lowest one fails last
        clock.now += 1
        steps.note_attempt(
            "shards", number, {"host": "node-7", "started": 1.0, "error": f"no memory for {number}"}
        )
    rows = status_rows(plan(target, store), store)
    assert [failure["part"] for failure in row_of(rows, "generate seed 103")["failed"]] == list(range(30, 40))
    lines = [line for line in status_table(rows).splitlines() if "failed: shard" in line]
    assert [line.rpartition(" ")[2] for line in lines] == [
        str(number) for number in range(30, 30 + SHOWN_ERRORS)
    ]
    assert "  and 5 more: --json has them all" in status_table(rows)


def test_an_attempt_is_in_flight_for_ten_minutes(unfinished, monkeypatch):
    target, store = unfinished
    clock = Clock(monkeypatch, store.now() + 1000)  # long after the commits
    began = clock.now
    steps_of(target, store).note_attempt("shards", 1, {"host": "node-7", "pid": 3, "started": 1.0})
    plans = plan(target, store)
    soon, late = (row_of(status_rows(plans, store, now=began + after), UNFINISHED) for after in (599, 601))
    assert soon["in_flight"] == [{"part": 1, "host": "node-7", "pid": 3, "started": began}]
    assert (soon["state"], late["state"]) == ("running", "stopped")
    assert late["in_flight"] == []


def test_the_first_shards_have_an_hour_while_nothing_tells_how_long_one_takes(source, monkeypatch):
    target, store = recipe(source=source), new_store()
    fill(target, store, leave_out=[(UNFINISHED, 0), (UNFINISHED, 1)])
    clock = Clock(monkeypatch, 1_000_000.0)
    steps_of(target, store).note_attempt("shards", 0, {"host": "node-7", "pid": 3, "started": 1.0})
    states = [
        row_of(status_rows(plan(target, store), store, now=clock.now + after), UNFINISHED)["state"]
        for after in (3599, 3601)
    ]
    assert states == ["running", "stopped"]


@pytest.mark.parametrize("skew", [-DAY, DAY])
def test_a_host_whose_clock_is_a_day_off_is_judged_by_the_stores_clock(unfinished, monkeypatch, skew):
    target, store = unfinished
    clock = Clock(monkeypatch, store.now() + DAY)
    steps_of(target, store).note_attempt(
        "shards", 1, {"host": "node-7", "pid": 3, "started": clock.now + skew}
    )
    clock.now += 60
    row = row_of(status_rows(plan(target, store), store), UNFINISHED)
    assert (row["state"], row["in_flight"][0]["started"]) == ("running", clock.now - 60)


def test_commits_of_hosts_whose_clocks_are_a_day_off_give_the_same_rate(source, monkeypatch):
    skews = iter(number % 3 * DAY for number in range(10**6))
    monkeypatch.setattr("dgflow.store.step_store.time", SimpleNamespace(time=lambda: 10_000.0 + next(skews)))
    target, store, *_ = many(source, monkeypatch)
    assert row_of(status_rows(plan(target, store), store), "generate seed 103")[
        "rate_per_minute"
    ] == pytest.approx(2.0)


def test_the_rate_is_that_of_the_newest_commits_and_gives_the_time_left(source, monkeypatch):
    target, store, clock, _ = many(source, monkeypatch)
    plans = plan(target, store)
    row = row_of(status_rows(plans, store), "generate seed 103")
    assert row["rate_per_minute"] == pytest.approx(2.0)
    assert row["seconds_left"] == pytest.approx(10 * 30.0)
    assert row["worker_seconds"] == pytest.approx(sum(2.0 + number for number in range(30)))
    stopped = row_of(status_rows(plans, store, now=clock.now + 3600), "generate seed 103")
    assert (stopped["state"], stopped["seconds_left"]) == ("stopped", None)


def test_workers_that_commit_all_at_once_do_not_look_fast(source, monkeypatch):
    """With 30 workers that each took half an hour, 30 shards in a burst are 1 per minute, not thousands."""
    target, store, *_ = many(source, monkeypatch, each=0.01, took=1785.5)  # on average 1800 s
    row = row_of(status_rows(plan(target, store), store), "generate seed 103")
    assert row["rate_per_minute"] == pytest.approx(1.0, rel=1e-3)
    assert row["seconds_left"] == pytest.approx(600.0, rel=1e-3)


def test_a_pause_is_not_in_the_rate(source, monkeypatch):
    target, store, clock, steps = many(source, monkeypatch)
    clock.now, clock.each = clock.now + DAY, 15.0  # stopped for a day, then five more shards
    fill(target, store, leave_out=[("generate seed 103", number) for number in range(35, 40)])
    clock.each = 0.0
    row = row_of(status_rows(plan(target, store), store), "generate seed 103")
    assert row["done"] == 35
    work = np.mean([2.0 + number for number in range(35)])
    assert row["rate_per_minute"] == pytest.approx(60 * 5 / (4 * 30 + work))


def test_work_and_money_add_up_to_a_total(unfinished):
    target, store = unfinished
    rows = status_rows(plan(target, store), store, price=3.6)
    row = row_of(rows, UNFINISHED)
    assert (row["worker_seconds"], row["money"]) == (2.0, pytest.approx(0.002))  # shard 0 took 2 s
    total = status_total(rows)
    assert total["worker_seconds"] == pytest.approx(sum(row["worker_seconds"] for row in rows))
    assert total["money"] == pytest.approx(total["worker_seconds"] * 0.001)
    assert (total["done"], total["wanted"]) == (
        sum(row["done"] for row in rows),
        sum(row["wanted"] for row in rows),
    )
    assert (total["state"], total["steps_done"]) == (
        "running",
        len(rows) - sum(row["state"] != "done" for row in rows),
    )
    assert status_table(rows).splitlines()[0].endswith("work so far  cost so far")
    assert status_table(rows).splitlines()[-1].startswith("total")


def test_without_a_price_there_is_no_money(unfinished):
    target, store = unfinished
    rows = status_rows(plan(target, store), store)
    assert "money" not in status_total(rows) and "cost" not in status_table(rows)


def test_what_waits_for_its_inputs_says_so(unfinished):
    target, store = unfinished
    rows = status_rows(plan(target, store), store)
    assert rows[-1]["state"] == "waiting"
    assert row_of(rows, "generate seed 101")["state"] == "done"
    json.dumps(rows, allow_nan=False)


def test_long_titles_keep_their_ends_and_the_table_its_columns(unfinished):
    target, store = unfinished
    plans = plan(target, store)
    rows = [
        row | {"title": f"generate seed {number}, {'guided ' * 20}end {number}"}
        for number, row in enumerate(status_rows(plans, store))
    ]
    lines = status_table(rows).splitlines()
    assert max(map(len, lines)) <= 140
    assert all(f"end {number}" in line for number, line in enumerate(lines[1:-1]))


def test_only_open_parts_are_read_and_nothing_is_listed_twice(source, monkeypatch):
    target, store, _, steps = many(source, monkeypatch)
    for number in range(40):
        steps.note_attempt("shards", number, {"host": "node-7", "started": 1.0})
    plans, listed, read = plan(target, store), [], []
    listing, get_many = store.list, store.get_many
    store.list = lambda prefix: listed.append(prefix) or listing(prefix)
    store.get_many = lambda keys: read.extend(keys) or get_many(keys)
    status_rows(plans, store)
    assert sorted(listed) == [f"{steps.name}/attempts", f"{steps.name}/shards"]  # of the only incomplete step
    assert sorted(key for key in read if "/attempts/" in key) == [
        f"{steps.name}/attempts/shards-{number:05d}.json" for number in range(30, 40)
    ]
