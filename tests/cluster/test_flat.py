"""Memory over 6,000 shards through the real plan, pool, store and seal: it does not grow during the run.

`python -m pytest tests/cluster/test_flat.py -s` prints the measurements; `flat_driver.py ROOT 20000 1000`
measures more shards.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from seaweed import seaweed

DRIVER = Path(__file__).with_name("flat_driver.py")
SHARDS, EVERY = 6_000, 500
FIRST = 2_000  # by then everything is loaded that a run loads once
S3_SHARDS, S3_EVERY, S3_FIRST = 1_000, 250, 500
GROWTH = 12e6  # bytes that an allocator may fragment; a leak of 3 kB per shard is more
SEALING = 3_000  # bytes per shard: its receipt in memory and its line in the manifest; measured 0.8 to 1.4 kB
OVERHEAD = 0.020  # seconds per shard

pytestmark = pytest.mark.timeout(900)


class Moment(NamedTuple):
    done: int
    seconds: float
    driver: int
    worker: int
    cpu: float


def watched(root: str, shards: int, every: int, **environment: str) -> list[Moment]:
    """Returns the driver's output: every so many shards, and after sealing."""
    command = [sys.executable, str(DRIVER), root, str(shards), str(every)]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    run = subprocess.run(
        command, env={**os.environ, **threads, **environment}, capture_output=True, text=True, timeout=800
    )
    assert run.returncode == 0, run.stderr[-4000:]
    moments = [Moment(**json.loads(line)) for line in run.stdout.splitlines()]
    for moment in moments:
        memory = f"driver {moment.driver / 1e6:6.1f} MB, worker {moment.worker / 1e6:6.1f} MB"
        print(
            f"{moment.done:6,} shards {moment.seconds:6.1f} s, {moment.cpu:6.1f} s of the driver's CPU, "
            f"{memory}"
        )
    assert [moment.done for moment in moments] == [*range(every, shards + 1, every), shards]
    return moments


def between(moments: list[Moment], first: int) -> tuple[Moment, Moment]:
    """Returns the measurements after `first` shards, and after the last one, before sealing."""
    return next(moment for moment in moments if moment.done == first), moments[-2]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> list[Moment]:
    return watched(str(tmp_path_factory.mktemp("flat") / "root"), SHARDS, EVERY)


def test_the_drivers_memory_does_not_grow_with_the_shards(local: list[Moment]):
    first, last = between(local, FIRST)
    assert last.driver - first.driver < GROWTH


def test_a_workers_memory_does_not_grow_with_the_shards(local: list[Moment]):
    first, last = between(local, FIRST)
    assert first.worker > 0 and last.worker - first.worker < GROWTH


def test_sealing_takes_no_more_than_the_receipts(local: list[Moment]):
    assert local[-1].driver - local[-2].driver < SEALING * SHARDS


def test_a_shard_costs_less_than_twenty_milliseconds_besides_its_samples(local: list[Moment]):
    """Uses the fastest few hundred: other programs on the machine only ever add time."""
    quickest = min(after.seconds - before.seconds for before, after in pairwise(local[:-1]))
    assert quickest / EVERY < OVERHEAD


def test_memory_does_not_grow_over_s3_either(tmp_path: Path):
    with seaweed(tmp_path) as client:
        root = f"{client.pop('BUCKET_URL')}/flat"
        moments = watched(root, S3_SHARDS, S3_EVERY, **client)
    first, last = between(moments, S3_FIRST)
    assert first.worker > 0 and max(last.driver - first.driver, last.worker - first.worker) < GROWTH
