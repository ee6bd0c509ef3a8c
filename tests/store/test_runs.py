"""Records of runs and heartbeats: which drivers are at work in a root, judged by the store's clock and by
the process."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from dgflow.store.memory import MemoryStore
from dgflow.store.processes import Process, has_ended, this_process
from dgflow.store.runs import (
    STALE_SECONDS,
    Asked,
    Beat,
    RunRecord,
    RunStep,
    alive,
    beat_key,
    drivers,
    newest,
    ranges,
    record_key,
    records,
    without_secrets,
)


@pytest.fixture
def store(request):
    return MemoryStore(f"runs-{request.node.name[:60].replace('[', '-').rstrip(']')}")


@pytest.fixture
def clock(monkeypatch):
    """The store's clock; it stands still."""
    clock = SimpleNamespace(now=5_000.0)
    monkeypatch.setattr("dgflow.store.memory.time", SimpleNamespace(time=lambda: clock.now))
    return clock


def record(run: str, **fields) -> RunRecord:
    step = RunStep(
        name="evaluate-0",
        title="evaluate",
        kind="evaluate",
        folder="results",
        unit="result",
        wanted=((0, 1),),
    )
    known = {
        "target": step.name,
        "steps": (step,),
        "version": "1",
        "host": "node-1",
        "pid": 7,
        "started": 1.0,
    }
    return RunRecord.model_validate({"id": run} | known | fields)


def begin(store, run: str, **fields) -> None:
    store.put(record_key(run), record(run, **fields).model_dump_json().encode())
    store.put(beat_key(run), Beat(title="evaluate").model_dump_json().encode())


def test_a_driver_is_alive_until_its_sign_of_life_is_old_by_the_stores_clock(store, clock):
    begin(store, "a", started=clock.now + 86_400)  # a host whose clock is a day ahead
    clock.now += STALE_SECONDS - 1
    assert [driver.record.id for driver in alive(store)] == ["a"]
    clock.now += 2
    (driver,) = drivers(store)
    assert (driver.alive, driver.silent) == (False, STALE_SECONDS + 1)


def test_two_drivers_on_one_root_are_both_seen(store, clock):
    begin(store, "b", host="node-2")
    begin(store, "a")
    assert [driver.record.host for driver in alive(store)] == ["node-1", "node-2"]


def test_a_run_that_ended_is_a_record_and_no_driver(store, clock):
    store.put(record_key("a"), record("a", outcome="done").model_dump_json().encode())
    assert drivers(store) == []
    assert [(each.id, each.outcome) for each in records(store)] == [("a", "done")]
    assert newest(store, "evaluate-0") == records(store)[0] and newest(store, "evaluate-1") is None


def test_a_process_of_this_host_that_was_killed_is_dead_at_once(store, clock):
    if this_process() is None:
        pytest.skip("the system does not say which processes there are")
    code = "from dgflow.store.processes import this_process; print(this_process().model_dump_json()); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin and child.stdout
    process = Process.model_validate_json(child.stdout.readline())
    begin(store, "a", process=process)
    assert [driver.alive for driver in drivers(store)] == [True]
    clock.now += 10 * STALE_SECONDS  # it hangs, and lives
    assert [driver.alive for driver in drivers(store)] == [True]
    child.kill()
    assert os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet buried
    assert [driver.alive for driver in drivers(store)] == [False]
    child.wait()
    child.stdin.close()
    child.stdout.close()
    assert [driver.alive for driver in drivers(store)] == [False]


@pytest.mark.parametrize("change", [{"boot": "another"}, {"namespace": "pid:[1]"}])
def test_the_process_of_another_host_or_container_is_not_judged_by_its_number(change):
    here = this_process()
    if here is None:
        pytest.skip("the system does not say which processes there are")
    assert has_ended(here) is False
    assert has_ended(here.model_copy(update={"start": here.start + 1})) is True  # its number was used again
    assert has_ended(here.model_copy(update=change)) is None


def test_what_a_later_version_wrote_is_read_and_what_cannot_be_read_still_counts_as_a_driver(store, clock):
    text = record("a").model_dump_json().encode()
    store.put(record_key("a"), text[:-1] + b',"colour":"blue"}')
    store.put(beat_key("b"), b"{")
    assert [each.id for each in records(store)] == ["a"]
    assert [(each.record.id, each.alive) for each in drivers(store)] == [("b", True)]


def test_an_older_root_has_no_runs(store):
    assert records(store) == [] and drivers(store) == []


def test_parts_are_kept_as_ranges():
    assert ranges([7, 0, 2, 1]) == ((0, 3), (7, 8)) and ranges([]) == ()
    step = record("a").steps[0].model_copy(update={"wanted": ((0, 3), (7, 8))})
    assert step.parts == [0, 1, 2, 7]


def test_the_options_that_were_given_read_as_on_a_command_line():
    asked = Asked(options={"samples": 500, "guidance_weight": 2.0}, changed=("samples",))
    assert asked.given == "--samples 500"
    assert Asked(about="Guides digits. And\nmore.\n\nBelow.").headline == "Guides digits."


def test_a_command_is_kept_without_what_may_be_a_secret():
    words = ["run", "https://me:topsecret@host/x", "s3://b/p?token=topsecret", "a@b"]
    assert without_secrets(words) == ("run", "https://...@host/x", "s3://b/p?...", "a@b")
