"""Samples per second through the pool against the same sampler in a bare loop: `python benchmarks/pool.py [--shards 24] [--workers 1]`.

Both sides sample the digits recipe's score network (fresh weights: the time is the same) with one thread; start-up is left out on both
sides. The bare loop neither encodes nor stores anything, so the ratio is all that shards, receipts, attempts, Ray and the driver cost.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from dgflow.networks.checkpoints import save_weights
from dgflow.runtime.cluster import ALLOCATOR, connect
from dgflow.runtime.environment import versions
from dgflow.runtime.pool import Pool
from dgflow.steps.binding import Bound, BoundWeights, Root
from dgflow.steps.execute import shard_work
from dgflow.steps.generate import Generate
from dgflow.store.objects import ObjectStore, open_store
from dgflow.store.shards import Columns, rows_sha256
from dgflow.store.step_store import StepStore

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from workflows import digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=24)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not ALLOCATOR.items() <= os.environ.items():  # the workers have these settings, which a process reads when it starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)

    torch.set_num_threads(1)
    step = digits.workflow().arms["unguided"][0].step
    assert isinstance(step, Generate)
    samples = options.shards * step.shard_size
    bare, pooled = [], []
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        inputs = Bound({"score": untrained_weights(step, store)})
        build = step.shard_builder(inputs)
        connect(store)
        with Pool(options.workers) as pool:
            for number in range(options.rounds + 1):
                steps = StepStore(store, step.kind, f"{number:064x}")  # a place of its own, so that every round makes all its shards
                alone = seconds_alone(step, build, options.shards)
                through = seconds_through(pool, partial(shard_work, step, steps, inputs), options.shards, options.workers)
                if number > 0:  # the first round warms both sides up
                    bare.append(samples / alone)
                    pooled.append(samples / through)
    loop, shared = statistics.median(bare), statistics.median(pooled)
    print(
        f"bare loop, 1 thread: {loop:.0f} samples/s; pool, {options.workers} worker(s) of 1 thread: {shared:.0f} samples/s; "
        f"ratio {shared / loop:.3f} (medians of {options.rounds})"
    )


def untrained_weights(step: Generate, store: ObjectStore) -> BoundWeights:
    """Weights of the score network after no training at all, committed like any epoch's."""
    score = step.score.step
    steps = Root(store).steps(score)
    torch.manual_seed(0)
    weights = score.build(Bound()).state_dict()
    receipt = steps.commit(
        "epochs",
        1,
        save_weights(weights),
        suffix=".safetensors",
        rows_sha256=rows_sha256({name: value.numpy() for name, value in weights.items()}),
        inputs={},
        seconds=0.0,
        device="cpu",
        versions=versions(),
    )
    return BoundWeights(score, steps, receipt, Bound())


def seconds_alone(step: Generate, build: Callable[[int, int], Columns], shards: int) -> float:
    """Seconds for `shards` shards in this process."""
    began = time.monotonic()
    for number in range(shards):
        build(*step.shard_range(number))
    return time.monotonic() - began


def seconds_through(pool: Pool, make: Callable[[], Callable[[int], float]], shards: int, workers: int) -> float:
    """Seconds for `shards` shards through the pool; the clock starts after one more for each worker, which has its network by then."""
    finished: list[float] = []
    pool.map(make, range(workers + shards), lambda _number, _seconds: finished.append(time.monotonic()))
    return finished[-1] - finished[workers - 1]


if __name__ == "__main__":
    main()
