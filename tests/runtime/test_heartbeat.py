"""A run's record and heartbeat, written by its driver: none by a run that only reuses, none left by one that
ended, one left by a driver that was killed."""

import logging
import os
import subprocess
import sys

import pytest
import tiny

from dgflow.engine.execute import execute
from dgflow.engine.gc import collect
from dgflow.runtime.placement import Placement
from dgflow.runtime.progress import Progress
from dgflow.specs.graph import graph
from dgflow.store.local import LocalStore
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import StoreError
from dgflow.store.runs import Asked, alive, drivers, records

LIVES = """
import sys, threading
import tiny
from dgflow.runtime.progress import Progress
from dgflow.specs.graph import graph
from dgflow.store.local import LocalStore
nodes = graph(tiny.real("images.npz"))
progress = Progress()
with progress.run(nodes, LocalStore("root")), progress.step(nodes[-1].step, total=3, done=1):
    print("at work", flush=True)
    threading.Event().wait(60)
"""


@pytest.fixture
def listing(tmp_path):
    """Returns a step that is made without Ray."""
    return graph(tiny.real(tiny.write_images(tmp_path / "images.npz")))[0].step


def test_a_run_leaves_its_record_and_no_sign_of_life_and_one_that_only_reuses_leaves_nothing(listing):
    store = MemoryStore("heartbeat-record")
    asked = Asked(recipe="tiny", options={"samples": 32})
    execute(listing, store, Placement(), Progress(asked))
    (record,) = records(store)
    assert record.outcome == "done" and record.asked == asked and record.target == listing.name
    assert [(step.name, step.folder, step.parts) for step in record.steps] == [(listing.name, "results", [0])]
    assert drivers(store) == []
    before = store.list("")
    execute(listing, store, Placement(), Progress(asked))
    assert store.list("") == before


def test_the_record_says_how_a_run_ended(tmp_path):
    store = MemoryStore("heartbeat-ends")
    for error, outcome in [
        (ValueError("no such\nthing"), "failed: no such"),
        (KeyboardInterrupt(), "interrupted"),
    ]:
        nodes, progress = graph(tiny.real(tmp_path / "images.npz")), Progress()
        with (
            pytest.raises(type(error)),
            progress.run(nodes, store),
            progress.step(nodes[-1].step, total=3, done=0),
        ):
            (driver,) = alive(store)
            assert (driver.record.outcome, driver.beat.of) == (None, len(nodes))
            raise error
        assert drivers(store) == [] and outcome in [record.outcome for record in records(store)]


def test_a_killed_driver_leaves_a_sign_that_is_seen_to_be_dead(tmp_path):
    tiny.write_images(tmp_path / "images.npz")
    driver = subprocess.Popen(
        [sys.executable, "-c", LIVES],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "at work\n"
    store = LocalStore(tmp_path / "root")
    (living,) = alive(store)
    assert living.record.pid == driver.pid and living.record.process is not None
    driver.kill()
    driver.communicate()
    (dead,) = drivers(store)
    assert not dead.alive and dead.record.outcome is None


def test_gc_takes_the_sign_of_a_driver_that_died_a_week_ago_and_no_record(tmp_path, monkeypatch, listing):
    store = MemoryStore("heartbeat-gc")
    execute(listing, store, Placement(), Progress())
    (record,) = records(store)
    store.put(f"runs/{record.id}.alive.json", b"{}")
    assert collect(store, delete=True, tell=print).number == 0
    later = store.now() + 8 * 86_400
    monkeypatch.setattr(MemoryStore, "now", lambda _self: later)
    assert collect(store, delete=True, tell=print).number == 1
    assert drivers(store) == [] and records(store) == [record]


def test_a_root_that_takes_no_sign_of_life_is_told_once_and_the_run_goes_on(listing, caplog, monkeypatch):
    store = MemoryStore("heartbeat-full")
    put = MemoryStore.put

    def refuse(self, key, data):
        if key.startswith("runs/"):
            raise StoreError("the disk is full")
        put(self, key, data)

    monkeypatch.setattr(MemoryStore, "put", refuse)
    with caplog.at_level(logging.WARNING):
        execute(listing, store, Placement(), Progress())
    assert [record.getMessage().count("disk is full") for record in caplog.records] == [1]
