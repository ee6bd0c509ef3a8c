"""Workers as processes: their view of the machine, cancelled calls, and deaths of workers and of the driver.
test_pool.py tests the pool on them."""

import os
import select
import signal
import subprocess
import sys

import cloudpickle
import pytest

from dgflow.runtime import machine
from dgflow.runtime.pool import process_fleet
from dgflow.runtime.pool.process_fleet import ProcessFleet, WorkerDied

# The workers cannot import this file: they receive its functions by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def fleet(monkeypatch):
    monkeypatch.setattr(process_fleet, "cpus", lambda: 2)
    return ProcessFleet(0.0)


@pytest.fixture
def worker(fleet):
    """Returns a worker that is ready."""
    worker, ready = fleet.start(())
    assert fleet.wait([ready], 60) == [ready]
    assert {fleet.end(ready).value.host} == set(fleet.hosts())
    yield worker
    fleet.stop(worker)


def finished(fleet, call):
    """Returns the end of a call."""
    assert fleet.wait([call], 60) == [call]
    return fleet.end(call)


def test_a_worker_without_a_gpu_sees_none_and_computes_with_one_thread(fleet, worker, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    loaded = fleet.load(lambda: os.environ.get)
    assert finished(fleet, fleet.submit(worker, loaded, "CUDA_VISIBLE_DEVICES", "")).value == ""
    other, _ = fleet.start(())
    try:
        assert finished(fleet, fleet.submit(other, loaded, "OMP_NUM_THREADS", "")).value == "1"
    finally:
        fleet.stop(other)


def test_the_gpus_that_the_driver_may_use_are_divided_among_workers(monkeypatch):
    monkeypatch.setenv("DGFLOW_EMULATED_GPUS", "1")
    monkeypatch.setattr(process_fleet, "gpus", lambda: ["1", "4", "5"])
    assert process_fleet.places(1.0) == ["1", "4", "5"]
    assert process_fleet.places(0.4) == ["1", "1", "4", "4", "5", "5"]  # two fit on a GPU
    assert process_fleet.places(2.0) == ["1,4"]
    fleet = ProcessFleet(1.0)
    assert (fleet.room().now, fleet.room().most, fleet.needs) == (3, 3, "1 GPU")
    workers = [fleet.start(())[0] for _ in range(2)]
    fleet.stop(workers[0])
    workers[0], _ = fleet.start(())  # takes the place that was freed
    for worker in workers:
        fleet.stop(worker)
    assert [worker.place for worker in workers] == ["1", "4"]


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 4), ("6400000 100000", 4), (None, 4)],
)
def test_the_cpus_are_those_that_the_process_is_bound_to_within_the_quota_of_its_container(
    monkeypatch, tmp_path, quota, expected
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 4, 6})
    monkeypatch.setattr(machine, "_QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert machine.cpus() == expected


def test_a_call_that_waits_is_taken_back_and_one_that_has_begun_is_not(fleet, worker, tmp_path):
    begun, go_on = tmp_path / "begun", tmp_path / "go_on"
    os.mkfifo(begun)
    os.mkfifo(go_on)

    def make():
        def work(item):
            if item == "first":
                begun.write_text("")
                go_on.read_text()
            return item

        return work

    loaded = fleet.load(make)
    first, second, third = (fleet.submit(worker, loaded, item, "") for item in ("first", "second", "third"))
    begun.read_text()
    fleet.cancel(first)
    fleet.cancel(second)
    assert fleet.wait([first], 0.0) == []
    go_on.write_text("")
    assert finished(fleet, first).value == "first"
    assert finished(fleet, second).cancelled
    assert finished(fleet, third).value == "third"


def test_an_error_that_cannot_be_sent_is_told_in_words(fleet, worker):
    def make():
        def work(item):
            error = RuntimeError("of this process")
            error.args = (error.args[0], (part for part in ()))
            raise error

        return work

    loaded = fleet.load(make)
    end = finished(fleet, fleet.submit(worker, loaded, 1, ""))
    assert isinstance(end.error, RuntimeError) and "of this process" in str(end.error) and not end.died


@pytest.mark.parametrize(
    ("death", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was ended by SIGKILL, probably by the system"),
        (lambda: os._exit(3), "exited with status 3"),
    ],
)
def test_a_death_ends_all_calls_of_the_worker_with_how_it_ended_and_its_last_words(
    fleet, worker, death, words
):
    def make():
        def work(item):
            print("last words", flush=True)
            death()

        return work

    loaded = fleet.load(make)
    calls = [fleet.submit(worker, loaded, item, "") for item in range(2)]
    for call in calls:
        end = finished(fleet, call)
        assert end.died and isinstance(end.error, WorkerDied)
        assert words in str(end.error) and str(end.error).endswith(": last words")


def test_workers_end_with_a_driver_that_was_killed_in_the_middle_of_an_item(tmp_path):
    program = """
import os, sys, time
from dgflow.runtime.pool import process_fleet

def make():
    def work(fifo):
        with open(fifo, "w") as told:
            print(os.getpid(), file=told)
        time.sleep(600)
    return work

process_fleet.cpus = lambda: 2
fleet = process_fleet.ProcessFleet(0.0)
loaded = fleet.load(make)
workers = [fleet.start(())[0] for _ in range(2)]
for worker in workers:
    fleet.submit(worker, loaded, sys.argv[1], "")
time.sleep(600)
"""
    told = tmp_path / "told"
    os.mkfifo(told)
    driver = subprocess.Popen([sys.executable, "-c", program, told])
    with open(os.open(told, os.O_RDWR)) as lines:  # it waits for no writer, and sees no end between two
        workers = [os.pidfd_open(int(lines.readline())) for _ in range(2)]
    driver.kill()
    driver.wait()
    for worker in workers:
        poll = select.poll()
        poll.register(worker, select.POLLIN)  # readable once the process has ended
        assert poll.poll(30_000)
        os.close(worker)
