"""The pool on a real local Ray and on processes without it: retries, poison items, unaffected neighbours, and
loading once."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cloudpickle
import pytest
from ray import cloudpickle as ray_cloudpickle

from dgflow.runtime.pool.pool import Pool
from dgflow.runtime.pool.process_fleet import ProcessFleet
from dgflow.runtime.pool.ray_fleet import RayFleet

# The workers cannot import this file: they receive its functions by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
ray_cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(params=[pytest.param("Ray", marks=pytest.mark.ray), "processes"])
def new_fleet(request):
    """Makes fleets of workers with a CPU each."""
    if request.param == "processes":
        return lambda: ProcessFleet(0.0)
    request.getfixturevalue("local_ray")
    return lambda: RayFleet(0.0)


@pytest.fixture
def pool(new_fleet):
    with Pool(2, fleet=new_fleet()) as pool:
        yield pool


def run(pool, make, items):
    """Returns results by item, and the items that were given up."""
    results = {}
    failures = pool.map(make, items, lambda item, result: results.update({item: result}))
    return results, {failure.item: failure for failure in failures}


def marks(folder: Path, name: str) -> int:
    return len(list(folder.glob(f"{name}-*")))


def mark(folder: Path, name: str) -> None:
    """Leaves a mark that survives the process."""
    number = 0
    while True:
        try:
            (folder / f"{name}-{number}").touch(exist_ok=False)
            return
        except FileExistsError:
            number += 1


def test_every_item_is_done_once_and_each_worker_loads_once(pool, tmp_path):
    def make():
        mark(tmp_path, "loaded")
        return lambda item: (item * item, os.getpid())

    results, failures = run(pool, make, range(40))
    assert {item: value for item, (value, _) in results.items()} == {item: item * item for item in range(40)}
    assert not failures
    assert marks(tmp_path, "loaded") == len({pid for _, pid in results.values()}) <= 2


def test_the_same_workers_do_the_next_job_with_what_it_loads(pool):
    first, _ = run(pool, lambda: lambda item: ("first", os.getpid()), range(8))
    second, _ = run(pool, lambda: lambda item: ("second", os.getpid()), range(8))
    assert {kind for kind, _ in second.values()} == {"second"}
    # One of the two may have been too slow for a share of the first job; a third process would be a new
    # worker.
    assert len({pid for _, pid in [*first.values(), *second.values()]}) <= 2


def test_an_item_that_fails_twice_is_done_at_the_third_attempt(pool, tmp_path):
    def make():
        def work(item):
            mark(tmp_path, f"item{item}")
            if item == 3 and marks(tmp_path, "item3") < 3:
                raise RuntimeError("not yet")
            return item

        return work

    results, failures = run(pool, make, range(6))
    assert sorted(results) == list(range(6)) and not failures
    assert Counter(path.name.split("-")[0] for path in tmp_path.iterdir())["item3"] == 3


def test_an_item_that_always_fails_is_given_up_with_its_error_and_the_others_are_done(pool, tmp_path):
    def make():
        def work(item):
            mark(tmp_path, f"item{item}")
            if item == 3:
                raise RuntimeError("the third is poison")
            return item

        return work

    results, failures = run(pool, make, range(8))
    assert sorted(results) == [0, 1, 2, 4, 5, 6, 7]
    assert failures[3].attempts == 3 and "the third is poison" in str(failures[3].error)
    assert marks(tmp_path, "item3") == 3


@pytest.mark.parametrize("kind", [ValueError, FloatingPointError])
def test_bad_input_is_not_tried_again(pool, tmp_path, kind):
    def make():
        def work(item):
            mark(tmp_path, f"item{item}")
            if item == 1:
                raise kind("bad")
            return item

        return work

    results, failures = run(pool, make, range(3))
    assert sorted(results) == [0, 2]
    assert isinstance(failures[1].error, kind) and str(failures[1].error) == "bad"
    assert marks(tmp_path, "item1") == 1


def test_an_item_that_kills_its_worker_three_times_is_poison_and_its_neighbours_in_the_queue_are_innocent(
    pool, tmp_path
):
    def make():
        def work(item):
            mark(tmp_path, f"item{item}")
            if item == 2:
                time.sleep(0.5)  # lets the previous result leave this process, with which it would die
                os.kill(os.getpid(), signal.SIGKILL)
            return item

        return work

    results, failures = run(pool, make, range(12))
    assert sorted(results) == [item for item in range(12) if item != 2]
    assert list(failures) == [2] and failures[2].attempts == 3
    assert marks(tmp_path, "item2") == 3
    assert all(marks(tmp_path, f"item{item}") == 1 for item in results)


def test_leaving_the_pool_gives_its_cpus_back(new_fleet):
    with Pool(2, fleet=new_fleet()) as pool:
        run(pool, lambda: lambda item: item, range(2))
    with Pool(2, fleet=new_fleet()) as other:  # would wait forever for CPUs that the first one still holds
        assert run(other, lambda: lambda item: item, range(2))[0] == {0: 0, 1: 1}


def test_what_waits_behind_a_long_item_is_done_by_an_idle_worker_and_by_no_other(pool, tmp_path):
    def make():
        def work(item):
            mark(tmp_path, f"item{item}")
            deadline = time.monotonic() + 60
            while item == "long" and len(list(tmp_path.iterdir())) < 7 and time.monotonic() < deadline:
                time.sleep(0.05)
            return os.getpid()

        return work

    # The long item ends when all others are done, including the one that waited behind it.
    results, failures = run(pool, make, ["long", *range(6)])
    assert not failures and len(results) == 7
    assert all(marks(tmp_path, f"item{item}") == 1 for item in results)


def test_an_item_whose_worker_was_killed_runs_again_within_15_seconds(new_fleet, tmp_path):
    def make():
        def work(item):
            mark(tmp_path, "began")
            if marks(tmp_path, "began") == 1:
                mark(tmp_path, "killed")
                os.kill(os.getpid(), signal.SIGKILL)
            return time.time()

        return work

    with Pool(1, fleet=new_fleet()) as alone:  # there is no other worker to take it
        results, failures = run(alone, make, ["item"])
    assert not failures
    assert results["item"] - (tmp_path / "killed-0").stat().st_mtime < 15


def test_a_job_that_was_interrupted_leaves_nothing_to_the_next_one(pool):
    def stop(item, result):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.map(lambda: lambda item: item, range(20), stop)
    assert run(pool, lambda: lambda item: -item, range(20, 30)) == (
        {item: -item for item in range(20, 30)},
        {},
    )


def test_no_worker_is_placed_on_a_host_that_was_set_aside(local_ray):
    fleet = RayFleet(0.0)
    (here,) = fleet.hosts()
    kept_away, never = fleet.start({here})
    placed, ready = fleet.start({"0" * len(here)})
    try:
        assert fleet.wait([never, ready], 60) == [ready] and fleet.end(ready).value.host == here
    finally:
        fleet.stop(kept_away)
        fleet.stop(placed)


def test_an_item_that_takes_all_memory_is_given_up_and_the_others_are_done(own_ray):
    """Ray's memory monitor kills the worker, which raises an error other than its death.

    Runs on a separate Ray, whose limit is 2.5 GB above the current use.
    """
    program = """
import ray
from dgflow.runtime.pool.pool import Pool

def share_in_use(more):
    lines = dict(line.split(":") for line in open("/proc/meminfo"))
    total, free = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return (total - free + more) / total

limit = {"memory_usage_threshold": share_in_use(2.5e9), "memory_monitor_refresh_ms": 100}
quiet = {"include_dashboard": False, "log_to_driver": False}
ray.init(num_cpus=1, _node_ip_address="127.0.0.1", _system_config=limit, **quiet)

def make():
    def work(item):
        if item == "large":
            held = []
            while True:
                held.append(bytearray(b"x") * 10**8)
        return item
    return work

done = []
with Pool(1, attempts=2) as pool:
    failures = pool.map(make, ["large", "a", "b"], lambda item, result: done.append(result))
print(sorted(done), [(failure.item, failure.attempts, type(failure.error).__name__) for failure in failures])
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300
    )
    assert found.stdout.splitlines()[-1] == "['a', 'b'] [('large', 2, 'OutOfMemoryError')]"
