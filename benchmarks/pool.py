"""The cost of the pool on real Ray, on this machine: `python benchmarks/pool.py
[overhead|empty|scaling|killed ...]`.

- overhead: samples per second through the pool against the same sampler in a bare loop. Both sides sample the
  digits recipe's score network (fresh weights, which do not affect the time) with one thread; start-up is
  excluded on both sides. The bare loop neither encodes nor stores anything, so the ratio is the whole cost of
  shards, receipts, attempts, Ray and the driver.
- empty: milliseconds per empty item: the cost of Ray and the driver alone.
- scaling: a fixed single-threaded computation by one worker and by two.
- killed: seconds from SIGKILL of the only worker until its item runs again in a new process.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from dgflow.engine.root import Root
from dgflow.engine.shard_work import shard_work
from dgflow.runtime.cluster import connect
from dgflow.runtime.environment import versions
from dgflow.runtime.machine import ALLOCATOR
from dgflow.runtime.pool.pool import Pool
from dgflow.specs.bound import Bound, BoundWeights
from dgflow.steps.generate import Generate
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.store.shards import Columns, rows_sha256
from dgflow.store.step_store import StepStore
from dgflow.weights.tensors import save_weights

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from workflows import digits


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measures = {"overhead": overhead, "empty": empty, "scaling": scaling, "killed": killed}
    parser.add_argument("what", nargs="*", default=[], help=f"any of {', '.join(measures)}; all by default")
    parser.add_argument("--shards", type=int, default=24)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if (
        not ALLOCATOR.items() <= os.environ.items()
    ):  # for the workers: a process reads these settings when it starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    with tempfile.TemporaryDirectory() as folder:
        connect(open_store(folder))
        for name in options.what or measures:
            print(measures[name](options, folder), flush=True)


def overhead(options: argparse.Namespace, folder: str) -> str:
    torch.set_num_threads(1)
    step = digits.workflow().arms["unguided"][0].step
    assert isinstance(step, Generate)
    samples = options.shards * step.shard_size
    bare, pooled = [], []
    store = open_store(folder)
    inputs = Bound({"score": untrained_weights(step, store)})
    build = step.shard_builder(inputs)
    with Pool(options.workers) as pool:
        for number in range(options.rounds + 1):
            steps = StepStore(
                store, step.kind, f"{number:012x}".ljust(64, "0")
            )  # a new folder, since every round builds all shards
            alone = seconds_alone(step, build, options.shards)
            through = seconds_through(
                pool, partial(shard_work, step, steps, inputs), options.shards, options.workers
            )
            if number > 0:  # the first round warms up both sides
                bare.append(samples / alone)
                pooled.append(samples / through)
    loop, shared = statistics.median(bare), statistics.median(pooled)
    return (
        f"overhead: bare loop, 1 thread: {loop:.0f} samples/s; pool, {options.workers} worker(s) of 1 "
        f"thread: {shared:.0f} samples/s; ratio {shared / loop:.3f}; a shard costs "
        f"{1000 * step.shard_size * (1 / shared - 1 / loop):.1f} ms more (medians of {options.rounds})"
    )


def empty(options: argparse.Namespace, folder: str) -> str:
    with Pool(options.workers) as pool:
        seconds = [
            seconds_through(pool, lambda: lambda item: 0.0, 1000, options.workers)
            for _ in range(options.rounds)
        ]
    median = statistics.median(seconds)
    of = f"{options.workers} worker(s) (median of {options.rounds})"
    return f"empty: {median:.2f} ms per item over 1000 items, {of}"


def scaling(options: argparse.Namespace, folder: str) -> str:
    def make() -> Callable[[int], float]:
        import hashlib

        block = bytes(300_000_000)
        return lambda item: float(len(hashlib.sha256(block).digest()))

    rates = {}
    for workers in (1, 2):
        with Pool(workers) as pool:
            times = [seconds_through(pool, make, 20, workers) for _ in range(options.rounds)]
        rates[workers] = 20 / min(
            times
        )  # the quietest round counts: other programs on the machine disturb two workers more than one
    ratio = rates[2] / rates[1]
    return f"scaling: 1 worker {rates[1]:.2f} items/s, 2 workers {rates[2]:.2f} items/s, {ratio:.2f} x"


def killed(options: argparse.Namespace, folder: str) -> str:
    marks = Path(folder) / "begun"

    def make() -> Callable[[int], float]:
        def work(item: int) -> float:
            with marks.open("a") as file:
                file.write(f"{item} {os.getpid()} {time.time()}\n")
            time.sleep(2)
            return 0.0

        return work

    found: list[float] = []

    def begun(number: int) -> list[list[str]]:
        while not (marks.exists() and (lines := marks.read_text().splitlines()) and len(lines) >= number):
            time.sleep(0.01)
        return [line.split() for line in lines]

    def kill() -> None:
        pid = int(begun(1)[0][1])
        now = time.time()
        os.kill(pid, signal.SIGKILL)
        first, again = begun(2)[:2]
        assert again[0] == first[0], "the item that was being worked on is the next one that runs"
        found.append(float(again[2]) - now)

    for _ in range(options.rounds):
        marks.unlink(missing_ok=True)
        killer = threading.Thread(target=kill)
        killer.start()
        with Pool(1) as pool:
            pool.map(make, range(2), lambda *_: None)
        killer.join()
    return f"killed: running again after {', '.join(f'{seconds:.1f}' for seconds in found)} s"


def untrained_weights(step: Generate, store: ObjectStore) -> BoundWeights:
    """Commits untrained weights of the score network, in the form of an epoch's weights."""
    score = step.score.step
    steps = Root(store).step_store(score)
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
    """Returns the seconds for `shards` shards in this process."""
    began = time.monotonic()
    for number in range(shards):
        build(*step.shard_range(number))
    return time.monotonic() - began


def seconds_through(
    pool: Pool, make: Callable[[], Callable[[int], float]], shards: int, workers: int
) -> float:
    """Returns the seconds for `shards` shards through the pool; the clock starts after one extra shard per
    worker, when every worker has loaded its network."""
    finished: list[float] = []
    pool.map(make, range(workers + shards), lambda _number, _seconds: finished.append(time.monotonic()))
    return finished[-1] - finished[workers - 1]


if __name__ == "__main__":
    main()
