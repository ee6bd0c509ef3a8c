"""`plan` and `status`: estimates from receipts, attempts in flight, failed and dead, rates, and how little of a large step is read."""

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from report.fake_root import fill, new_store, recipe

from dgflow.report.plan_text import plan_json, plan_table
from dgflow.report.texts import status_rows, status_table
from dgflow.steps.binding import Root
from dgflow.steps.plan import plan

UNFINISHED = "generate seed 102, guided by discriminator"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "digits.npz"
    np.savez(path, image=np.zeros((1, 16, 16), np.uint8), label=np.zeros(1))
    return str(path)


@pytest.fixture
def unfinished(source):
    """Shard 1 of one guided step is missing, and so all that needs it."""
    target, store = recipe(source=source), new_store()
    fill(target, store, leave_out=[(UNFINISHED, 1)])
    return target, store


def row_of(rows, title):
    (row,) = [row for row in rows if row["title"] == title]
    return row


def steps_of(target, store, title=UNFINISHED):
    (made,) = [made for made in plan(target, store) if made.step.title == title]
    return Root(store).steps(made.step)


def test_an_unfinished_step_is_estimated_from_its_own_receipts(unfinished):
    target, store = unfinished
    row = row_of(plan_json(plan(target, store), store)["steps"], UNFINISHED)
    assert (row["action"], row["done"], row["todo"], row["unit"]) == ("extend", 1, 1, "shards")
    assert row["evaluations"] == 100 * 35  # a shard of 100, 18 Heun steps
    assert row["worker_hours"] == pytest.approx(2.0 / 3600)  # shard 0 took 2 s
    assert row["bytes"] == steps_of(target, store).receipts(list(steps_of(target, store).committed("shards")[0].values()))[0].bytes


def test_a_new_step_is_estimated_from_others_of_its_kind(source):
    store = new_store()
    fill(recipe(source=source), store)
    new = recipe(source=source, seeds=[101, 102, 103, 104])
    row = row_of(plan_json(plan(new, store), store)["steps"], "generate seed 104")
    assert row["action"] == "build"
    assert row["worker_hours"] == pytest.approx(2 * 2.5 / 3600)  # the others took 2 s and 3 s for their two shards


def test_time_that_nothing_is_known_of_is_a_question_mark_and_null(source):
    target, store = recipe(source=source), new_store()
    plans = plan(target, store)
    found = json.loads(json.dumps(plan_json(plans, store), allow_nan=False))
    assert all(step["worker_hours"] is None for step in found["steps"])
    assert found["total"]["unknown"] == [step["name"] for step in found["steps"]]
    assert "?: no receipt of such a step to estimate from yet" in plan_table(plans, store)


def test_a_finished_plan_has_nothing_to_do(source):
    target, store = recipe(source=source), new_store()
    fill(target, store)
    found = plan_json(plan(target, store), store)
    assert {step["action"] for step in found["steps"]} == {"reuse"}
    assert found["total"] == {"done": 87, "todo": 0, "evaluations": 0, "bytes": 0, "worker_hours": 0, "unknown": [], "unknown_bytes": []}


def test_an_estimate_reads_a_sample_of_the_receipts(source):
    target, store = recipe(source=source, shard_size=10, samples=1_000), new_store()
    fill(recipe(source=source, shard_size=10, samples=400), store)
    plans = plan(target, store)
    read, get_many = [], store.get_many
    store.get_many = lambda keys: read.append(len(keys)) or get_many(keys)
    plan_json(plans, store)
    assert max(read) == 16


def test_a_failed_attempt_is_shown_with_its_shard_host_and_error(unfinished):
    target, store = unfinished
    error = {"host": "node-7", "pid": 3, "started": 1000.0, "failed": 1001.0, "error": "CUDA out of memory\nof 80 GB\x1b[2J"}
    steps_of(target, store).note_attempt("shards", 1, error)
    rows = status_rows(plan(target, store), store)
    row = row_of(rows, UNFINISHED)
    assert row["failed"] == [{"part": 1, "host": "node-7", "error": error["error"]}]
    assert row["in_flight"] == []
    assert "failed: shard 1 on node-7: CUDA out of memory of 80 GB [2J" in status_table(rows)  # and no escape sequence


def test_a_failed_attempt_at_what_was_committed_since_is_not_shown(unfinished):
    target, store = unfinished
    steps_of(target, store).note_attempt("shards", 0, {"host": "node-7", "started": 1.0, "error": "preempted"})
    assert row_of(status_rows(plan(target, store), store), UNFINISHED)["failed"] == []


def test_an_attempt_is_in_flight_for_ten_minutes(unfinished):
    target, store = unfinished
    began = time.time() + 1000  # a time at which the commits are long past
    steps_of(target, store).note_attempt("shards", 1, {"host": "node-7", "pid": 3, "started": began})
    plans = plan(target, store)
    soon, late = (row_of(status_rows(plans, store, now=began + after), UNFINISHED) for after in (599, 601))
    assert soon["in_flight"] == [{"part": 1, "host": "node-7", "started": began}]
    assert (soon["state"], late["state"]) == ("running", "stopped")
    assert late["in_flight"] == []


def test_the_rate_is_that_of_the_newest_commits_and_gives_the_time_left(source, monkeypatch):
    target, store = recipe(source=source, shard_size=10, samples=400), new_store()
    clock = iter(range(10_000, 10**9, 30))  # a commit every 30 s
    monkeypatch.setattr("dgflow.store.step_store.time", SimpleNamespace(time=lambda: float(next(clock))))
    fill(target, store, leave_out=[("generate seed 103", number) for number in range(30, 40)])
    plans = plan(target, store)
    steps = steps_of(target, store, "generate seed 103")
    newest = max(
        receipt.created for receipt in steps.receipts([key for keys in steps.committed("shards").values() for key in keys.values()])
    )
    row = row_of(status_rows(plans, store, now=newest + 5), "generate seed 103")
    assert row["rate_per_minute"] == pytest.approx(2.0)
    assert row["seconds_left"] == pytest.approx(10 * 30.0)
    assert row["worker_seconds"] == pytest.approx(sum(2.0 + number for number in range(30)))
    stopped = row_of(status_rows(plans, store, now=newest + 3600), "generate seed 103")
    assert (stopped["state"], stopped["seconds_left"]) == ("stopped", None)


def test_what_waits_for_its_inputs_says_so(unfinished):
    target, store = unfinished
    rows = status_rows(plan(target, store), store)
    assert rows[-1]["state"] == "waiting"
    assert row_of(rows, "generate seed 101")["state"] == "done"
    json.dumps(rows, allow_nan=False)


def test_planning_loads_neither_torch_nor_ray_nor_matplotlib(tmp_path):
    modules = "dgflow, dgflow.report.plan_text, dgflow.report.texts, dgflow.report.summary, dgflow.report.page, dgflow.steps.plan"
    code = f"import sys, {modules}; print(sorted({{'torch', 'ray', 'matplotlib', 'jinja2'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
