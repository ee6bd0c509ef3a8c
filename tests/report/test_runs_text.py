"""The description of a root's runs, with and without the recipe: active, killed and finished drivers, other
options, roots of earlier versions."""

import json
import time
from types import SimpleNamespace

import pytest
from report.fake_root import UNFINISHED, fill, new_store, recipe, row_of, steps_of

from dgflow.cli import look
from dgflow.engine.plan import plan
from dgflow.report.runs_text import driver_lines, goal_of, named, others_line, seen_steps, variants
from dgflow.report.status_text import rows_of, status_rows, status_table, status_total
from dgflow.runtime.heartbeat import new_record
from dgflow.specs.graph import graph
from dgflow.store.runs import STALE_SECONDS, Asked, Beat, RunRecord, beat_key, drivers, record_key

ASKED = Asked(
    recipe="digits", about="Guides digits.", options={"samples": 200, "seeds": 3}, changed=("samples",)
)


def recorded(store, target, run: str = "20260101-000000-aaaaaa", **fields) -> RunRecord:
    known = {"id": run, "host": "node-1", "pid": 7, "process": None}
    record = new_record(ASKED, graph(target)).model_copy(update=known | fields)
    store.put(record_key(run), record.model_dump_json().encode())
    return record


def beats(store, record: RunRecord, **fields) -> None:
    store.put(beat_key(record.id), Beat(of=len(record.steps), **fields).model_dump_json().encode())


@pytest.fixture
def clock(monkeypatch):
    """The store's clock; it stands still, long after all commits."""
    clock = SimpleNamespace(now=time.time() + 86_400)
    monkeypatch.setattr("dgflow.store.memory.time", SimpleNamespace(time=lambda: clock.now))
    return clock


def test_a_run_between_two_steps_is_running_and_a_killed_one_is_not(unfinished, clock):
    target, store = unfinished
    record = recorded(store, target)
    beats(store, record, number=4, does="between steps")
    rows = status_rows(plan(target, store), store, drivers=drivers(store))
    assert status_total(rows, drivers(store))["state"] == "running"
    clock.now += STALE_SECONDS + 1
    rows = status_rows(plan(target, store), store, drivers=drivers(store))
    assert status_total(rows, drivers(store))["state"] == "stopped"
    (line,) = driver_lines(variants(store, clock.now)[0])
    assert line.startswith("ended unexpectedly: node-1, process 7; last heartbeat 1 min 31 s ago")


def test_attempts_of_a_killed_driver_are_not_in_flight(unfinished, clock):
    target, store = unfinished
    record = recorded(store, target)
    steps = steps_of(target, store)
    steps.note_attempt("shards", 1, {"host": "node-7", "pid": 3, "started": 1.0})
    beats(store, record, step=steps.name, number=9, title=UNFINISHED)
    row = row_of(status_rows(plan(target, store), store, drivers=drivers(store)), UNFINISHED)
    assert (row["state"], len(row["in_flight"])) == ("running", 1)
    store.delete(beat_key(record.id))
    row = row_of(status_rows(plan(target, store), store, drivers=drivers(store)), UNFINISHED)
    assert (row["state"], row["in_flight"]) == ("stopped", [])


def test_the_drivers_estimate_ages_and_is_told_of_step_and_run(unfinished, clock):
    target, store = unfinished
    record, name = recorded(store, target), steps_of(target, store).name
    fields = {"step": name, "title": UNFINISHED, "number": 9, "done": 1, "wanted": 2, "unit": "shards"}
    beats(store, record, **fields, step_left=100.0, run_left=600.0, untimed=2)
    clock.now += 40
    at_work = drivers(store)
    rows = status_rows(plan(target, store), store, drivers=at_work)
    assert row_of(rows, UNFINISHED)["seconds_left"] == pytest.approx(60.0)
    total = status_total(rows, at_work)
    assert (total["seconds_left"], total["steps_untimed"]) == (pytest.approx(560.0), 2)
    assert "9 min 20 s" in status_table(rows, clock.now, at_work).splitlines()[-1]
    (line,) = driver_lines(variants(store, clock.now)[0])
    assert f"at work: node-1, process 7: step 9 of {len(record.steps)}, {UNFINISHED}: 1 of 2 shards" in line
    assert line.endswith("run: about 9 min 20 s left + 2 steps not yet timed")


def test_an_epoch_shows_its_step_and_loss(source, clock):
    target, store = recipe(source=source), new_store()
    fill(target, store, leave_out=[("train-score", 24)])
    record, steps = recorded(store, target), steps_of(target, store, "train-score")
    note = {
        "host": "node-7",
        "pid": 3,
        "started": 50.0,
        "updated": 80.0,
        "step": 120,
        "steps": 400,
        "loss": 0.5,
    }
    steps.note_attempt("epochs", 24, note)
    beats(store, record, step=steps.name, number=3)
    rows = status_rows(plan(target, store), store, drivers=drivers(store))
    (attempt,) = row_of(rows, "train-score")["in_flight"]
    assert attempt | {"started": 0} == {
        "part": 24,
        "host": "node-7",
        "pid": 3,
        "started": 0,
        "step": 120,
        "steps": 400,
        "loss": 0.5,
    }
    assert attempt["started"] == clock.now - 30  # by the store's clock
    assert "  epoch 24: step 120 of 400, loss 0.5" in status_table(rows).splitlines()
    steps.note_attempt("epochs", 24, note | {"safe": 100})
    rows = status_rows(plan(target, store), store, drivers=drivers(store))
    assert "  epoch 24: step 120 of 400, loss 0.5, step 100 safe" in status_table(rows).splitlines()
    store.delete(beat_key(record.id))  # the driver has ended
    rows = status_rows(plan(target, store), store, drivers=drivers(store))
    assert row_of(rows, "train-score")["safe"] == {"part": 24, "step": 100, "steps": 400}
    assert "  epoch 24: step 100 of 400 safe" in status_table(rows).splitlines()


def test_a_root_without_its_recipe_shows_the_same_rows(unfinished, clock):
    target, store = unfinished
    record = recorded(store, target)
    found = variants(store, clock.now)
    steps = seen_steps(found, store, store.names())[record.goal]
    rows = rows_of(steps, now=clock.now, drivers=[])
    planned = status_rows(plan(target, store), store, drivers=[])
    assert [(row["title"], row["done"], row["wanted"]) for row in rows] == [
        (row["title"], row["done"], row["wanted"]) for row in planned
    ]
    differing = {
        row["state"] for row, other in zip(rows, planned, strict=True) if row["state"] != other["state"]
    }
    assert differing <= {"to do"}  # without the recipe, the inputs of a step are unknown


def test_ls_lists_recipe_options_state_and_command(unfinished, clock, capsys):
    target, store = unfinished
    recorded(store, target, outcome="failed: no memory")
    assert look.list_runs(store, json=True) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("digits --samples 200: ") and lines[1] == "  Guides digits."
    assert lines[2].endswith("on node-1, failed: no memory")
    (found,) = json.loads(last)["runs"]
    assert found["asked"]["options"] == {"samples": 200, "seeds": 3} and found["state"] == "failed: no memory"
    assert found["steps_done"] < found["steps"]
    assert look.status(store, json=False) == 1


def test_a_root_of_an_earlier_version_lists_its_steps(finished, capsys):
    target, store = finished
    assert look.list_runs(store, json=False) == 0
    printed = capsys.readouterr().out
    assert "steps of runs without a record" in printed
    assert all(node.step.name in printed for node in graph(target))
    assert look.status(store, json=False) == 0


def test_a_step_whose_description_is_damaged_is_listed_without_parts(capsys):
    store = new_store()
    store.put("generate-0123456789ab/step.json", b"{}")
    store.put("features-0123456789ab/step.json", b"not JSON")
    assert look.list_runs(store, json=False) == 0
    assert capsys.readouterr().out.count("nothing done") == 2


def test_a_look_writes_nothing(unfinished, clock, capsys):
    target, store = unfinished
    beats(store, recorded(store, target))
    before = store.list("")
    look.list_runs(store, json=True)
    look.status(store, json=True)
    assert store.list("") == before and capsys.readouterr().out


def test_a_recipe_with_other_options_is_told_with_which_ones_the_root_was_run(unfinished, clock):
    target, store = unfinished
    recorded(store, target, outcome="done")
    other = ASKED.model_copy(update={"options": {"samples": 500, "seeds": 3}})
    found = variants(store, clock.now)
    assert (
        others_line(found, other, "another") == "this root also holds digits (run with --samples 200), done"
    )
    assert (
        others_line(found, Asked(recipe="own"), "another")
        == "this root also holds digits --samples 200, done"
    )
    assert others_line(found, ASKED, goal_of(target)) is None


def test_runs_of_the_same_options_are_one_line_and_an_old_sign_of_life_does_not_outlive_them(
    unfinished, clock
):
    target, store = unfinished
    killed = recorded(store, target)
    beats(store, killed)
    clock.now += STALE_SECONDS + 1
    recorded(store, target, "20260102-000000-aaaaaa", outcome="done")
    (found,) = variants(store, clock.now)
    assert (found.runs, found.outcome, found.drivers) == (2, "done", ())


def test_another_slice_of_the_same_step_is_another_goal(source):
    samples = recipe(source=source).arms["unguided"][0].step
    assert goal_of(samples[:100]) != goal_of(samples[:200])
    assert named(Asked(command=("python", "own.py"))) == "python own.py"
