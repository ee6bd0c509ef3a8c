"""Samples per second through the pool against the same sampler in a bare loop: `python benchmarks/pool.py [--shards 24] [--workers 1]`.

Both sides sample the digits recipe's score network (fresh weights: the time is the same) with one thread; start-up is left out on both sides. The bare loop
neither encodes nor stores anything, so the ratio is all that shards, receipts, attempts, Ray and the driver cost.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflows"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=24)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    import digits
    import torch

    from dgflow.runtime.cluster import connect
    from dgflow.runtime.pool import Pool
    from dgflow.runtime.training import train
    from dgflow.steps.binding import Bound, BoundWeights
    from dgflow.steps.execute import shard_work
    from dgflow.store.objects import open_store
    from dgflow.store.step_store import StepStore

    torch.set_num_threads(1)
    step = digits.workflow().arms["unguided"][0].step
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        weights = _untrained(step, store, StepStore, BoundWeights, Bound, train)
        inputs = Bound({"score": weights})
        build = step.shard_builder(inputs)
        connect(store)
        with Pool(options.workers) as pool:
            bare, pooled = [], []
            for round_number in range(-1, options.rounds):  # the first round warms both sides up
                steps = StepStore(store, "generate", f"{round_number + 1:064x}")
                first = [None, 0.0]
                began = time.monotonic()
                for number in range(options.shards):
                    build(*step.shard_range(number))
                alone = time.monotonic() - began

                def done(_number: int, _seconds: float, first: list = first) -> None:
                    first[1] = time.monotonic()

                # One shard more beforehand, so that the worker has its networks.
                pool_round = partial(shard_work, step, steps, inputs)
                began = None
                finished: list[float] = []
                pool.map(pool_round, list(range(options.shards + options.workers)), lambda _n, _s, finished=finished: finished.append(time.monotonic()))
                through = finished[-1] - finished[options.workers - 1]
                if round_number >= 0:
                    bare.append(options.shards * step.shard_size / alone)
                    pooled.append(options.shards * step.shard_size / through)
    a, b = statistics.median(bare), statistics.median(pooled)
    print(f"bare loop, 1 thread: {a:.0f} samples/s; pool, {options.workers} worker(s) of 1 thread: {b:.0f} samples/s; ratio {b / a:.3f} (medians of {options.rounds})")


def _untrained(step, store, StepStore, BoundWeights, Bound, train):
    """Weights of the score network after no training at all, committed like any epoch's."""
    import torch

    from dgflow.runtime.training import _commit

    score = step.score.step
    steps = StepStore(store, score.kind, score.fingerprint)
    torch.manual_seed(0)
    network = score.build(Bound())
    _commit(steps, "epochs", 1, {name: value.clone() for name, value in network.state_dict().items()}, {}, 0.0, {}, "cpu")
    return BoundWeights(score, steps, steps.receipt(steps.done("epochs", {})[1]), Bound())


if __name__ == "__main__":
    main()
