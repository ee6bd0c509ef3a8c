"""`plan`: estimates from receipts, and the small number of requests for a large step."""

import json
import subprocess
import sys

import pytest
from report.fake_root import UNFINISHED, fill, new_store, recipe, row_of, steps_of

from dgflow.engine.plan import plan
from dgflow.report.plan_text import plan_json, plan_table


def test_an_unfinished_step_is_estimated_from_its_own_receipts(unfinished):
    target, store = unfinished
    row = row_of(plan_json(plan(target, store), store)["steps"], UNFINISHED)
    assert (row["action"], row["done"], row["todo"], row["unit"]) == ("extend", 1, 1, "shards")
    assert row["evaluations"] == 100 * 35  # a shard of 100, 18 Heun steps
    assert row["worker_hours"] == pytest.approx(2.0 / 3600)  # shard 0 took 2 s
    assert (
        row["bytes"]
        == steps_of(target, store)
        .receipts(list(steps_of(target, store).committed("shards")[0].values()))[0]
        .bytes
    )


def test_a_new_step_is_estimated_from_others_of_its_kind(source):
    store = new_store()
    fill(recipe(source=source), store)
    new = recipe(source=source, seeds=[101, 102, 103, 104])
    row = row_of(plan_json(plan(new, store), store)["steps"], "generate seed 104")
    assert row["action"] == "build"
    assert row["worker_hours"] == pytest.approx(
        2 * 2.5 / 3600
    )  # the others took 2 s and 3 s for their two shards


def test_time_that_nothing_is_known_of_is_a_question_mark_and_null(source):
    target, store = recipe(source=source), new_store()
    plans = plan(target, store)
    found = json.loads(json.dumps(plan_json(plans, store), allow_nan=False))
    assert all(step["worker_hours"] is None for step in found["steps"])
    assert found["total"]["unknown"] == [step["name"] for step in found["steps"]]
    assert "?: not known until a step of that kind was made here" in plan_table(plans, store)


def test_a_finished_plan_has_nothing_to_do(source):
    target, store = recipe(source=source), new_store()
    fill(target, store)
    found = plan_json(plan(target, store), store)
    assert {step["action"] for step in found["steps"]} == {"reuse"}
    assert found["total"] == {
        "done": 87,
        "todo": 0,
        "evaluations": 0,
        "bytes": 0,
        "worker_hours": 0,
        "unknown": [],
        "unknown_bytes": [],
    }


def test_an_estimate_reads_a_sample_of_the_receipts(source):
    target, store = recipe(source=source, shard_size=10, samples=1_000), new_store()
    fill(recipe(source=source, shard_size=10, samples=400), store)
    plans = plan(target, store)
    read, get_many = [], store.get_many
    store.get_many = lambda keys: read.append(len(keys)) or get_many(keys)
    plan_json(plans, store)
    assert max(read) == 16


def test_planning_loads_neither_torch_nor_ray_nor_matplotlib(tmp_path):
    reports = ("plan_text", "status_text", "summary", "page")
    modules = ", ".join(["dgflow", "dgflow.engine.plan", *(f"dgflow.report.{name}" for name in reports)])
    code = (
        f"import sys, {modules}; print(sorted({{'torch', 'ray', 'matplotlib', 'jinja2'}} & set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
