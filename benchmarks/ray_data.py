"""The pool, Ray Data and plain Ray tasks on the same shards: `python benchmarks/ray_data.py [--shards 200]`.

All three call the same function per shard (`shard_work`, which builds and commits a shard and skips a
committed one), with the same number of workers. Each runs in its own process, with its own Ray on loopback:

- killed: halfway through the run, a worker's process gets SIGKILL in the middle of a shard. Measured: total
  seconds; a worker's time per shard before the kill, without the wait that stands for sampling; the driver's
  CPU time per shard; seconds until the lost shard starts again, and until a new process works; the number of
  shards built again; data objects without a receipt.
- broken: one shard always raises ValueError. Measured: the number of shards committed in the end.
- many: empty shards without a store, until `--seconds` have passed. Measured: milliseconds and the driver's
  CPU time per shard, and the driver's own memory before, after a tenth of the shards, and at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dgflow.engine.root import Root
from dgflow.engine.shard_work import shard_work
from dgflow.report.layout import aligned
from dgflow.specs.bound import Bound
from dgflow.specs.step import SampleStep
from dgflow.store.open import open_store
from dgflow.store.shards import Columns

LOADING = 1.0  # s for which a worker "loads its network"
POLL = 0.005
BROKEN = 7  # the shard that raises

Work = Callable[[int], Any]
Make = Callable[[], Work]


class Waited(SampleStep):
    """Samples whose value is their index. Each shard takes `seconds`, and is recorded when it starts."""

    shard_size: int = 16
    seconds: float
    marks: str  # path of a file with one line (shard, process) per started shard
    broken: int = -1

    def shard_builder(self, inputs: Bound) -> Callable[[int, int], Columns]:
        del inputs
        time.sleep(LOADING)

        def rows(start: int, stop: int) -> Columns:
            number = start // self.shard_size
            with Path(self.marks).open("a") as file:
                file.write(f"{number} {os.getpid()}\n")
            time.sleep(self.seconds)
            if number == self.broken:
                raise ValueError(f"shard {number} is broken")
            return {"index": np.arange(start, stop), "label": np.zeros(stop - start, np.int64)}

        return rows


class Nothing(NamedTuple):
    """Makes a function that does nothing."""

    def __call__(self) -> Work:
        return lambda number: 0.0


# The three systems


def pool(make: Make, shards: int, workers: int) -> Iterator[int]:
    """Runs the shards as `dgflow.engine.execute` does. Yields the number of each completed shard."""
    from dgflow.runtime.pool.pool import Pool

    done: list[int] = []
    with Pool(workers) as running:
        thread = threading.Thread(
            target=running.map, args=(make, range(shards), lambda number, _: done.append(number))
        )
        thread.start()
        given = 0
        while thread.is_alive() or given < len(done):
            if given < len(done):
                given += 1
                yield done[given - 1]
            else:
                thread.join(POLL)


def data(make: Make, shards: int, workers: int) -> Iterator[int]:
    """Runs the shards with Ray Data: `map_batches` on a fixed number of actors, one shard per block."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    items = ray.data.from_items(list(range(shards)), override_num_blocks=shards)
    mapped = items.map_batches(
        _Actor,
        fn_constructor_args=(make,),
        batch_size=1,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    for row in mapped.iter_rows():
        yield row["item"]


class _Actor:
    def __init__(self, make: Make) -> None:
        self.work = make()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for number in batch["item"]:
            self.work(int(number))
        return batch


def tasks(make: Make, shards: int, workers: int) -> Iterator[int]:
    """Runs the shards as plain tasks, all submitted at once, with Ray's own retries. Each process loads
    once."""
    import ray

    remote = ray.remote(num_cpus=1, max_retries=3)(_task)
    shared = ray.put(make)
    open_ = [remote.remote([shared], number) for number in range(shards)]
    while open_:
        ended, open_ = ray.wait(open_, num_returns=1)
        yield ray.get(ended[0])


def _task(make: list[Any], number: int) -> int:
    _loaded(make[0])(number)
    return number


@cache
def _loaded(make: Any) -> Work:
    import ray

    loaded: Any = ray.get(make)
    return loaded()


SYSTEMS = {"pool": pool, "data": data, "tasks": tasks}
TITLES = {"pool": "the pool", "data": "Ray Data, actors", "tasks": "plain Ray tasks"}

# The measurements


def killed(system: Callable[..., Iterator[int]], options: argparse.Namespace, folder: str) -> dict[str, Any]:
    step, make, committed = shards_of(folder, options.wait, broken=-1)
    times: dict[str, float] = {}
    killer = threading.Thread(
        target=partial(_kill, Path(step.marks), options.shards // 2, times), daemon=True
    )
    killer.start()
    began, cpu = time.monotonic(), time.process_time()
    ends = []
    for _ in system(make, options.shards, options.workers):
        ends.append(time.monotonic())
    took = time.monotonic() - began
    killer.join(10.0)
    before = [end for end in ends if end < times["killed"]] or ends[:1]
    each = (before[-1] - before[0]) / max(1, len(before) - 1) * options.workers
    built = Counter(number for number, _pid in _begun(Path(step.marks)))
    return {
        "seconds": took,
        "overhead_ms": 1000 * (each - options.wait),
        "cpu_ms": 1000 * (time.process_time() - cpu) / options.shards,
        "again": times.get("again"),
        "replaced": times.get("replaced"),
        "committed": committed(),
        "built_again": sum(count - 1 for count in built.values()),
        "without_receipt": _data_files(folder) - committed(),
    }


def broken(system: Callable[..., Iterator[int]], options: argparse.Namespace, folder: str) -> dict[str, Any]:
    step, make, committed = shards_of(folder, options.wait, broken=BROKEN)
    asked = options.shards // 4
    began, error = time.monotonic(), ""
    try:
        for _ in system(make, asked, options.workers):
            pass
    except Exception as raised:
        error = type(raised).__name__
    tries = sum(number == BROKEN for number, _pid in _begun(Path(step.marks)))
    took = time.monotonic() - began
    return {"committed": committed(), "asked": asked, "tries": tries, "seconds": took, "raises": error}


def many(system: Callable[..., Iterator[int]], options: argparse.Namespace, folder: str) -> dict[str, Any]:
    del folder
    found: dict[str, Any] = {"memory_before": own_memory()}
    began, cpu, done = time.monotonic(), time.process_time(), 0
    for done, _ in enumerate(system(Nothing(), options.many, options.workers), start=1):
        if done == options.many // 10:
            found["memory_tenth"] = own_memory()
        if time.monotonic() - began > options.seconds:
            break
    took = time.monotonic() - began
    found |= {"done": done, "each_ms": 1000 * took / done, "memory": own_memory()}
    return found | {"cpu_ms": 1000 * (time.process_time() - cpu) / done}


PARTS = {"killed": killed, "broken": broken, "many": many}


def shards_of(folder: str, seconds: float, *, broken: int) -> tuple[Waited, Make, Callable[[], int]]:
    """Returns the step, the function that a worker loads, and a function that counts the committed shards."""
    store = open_store(folder)
    step = Waited(seconds=seconds, marks=f"{folder}.marks", broken=broken)
    step_store = Root(store).step_store(step)
    return step, partial(shard_work, step, step_store, Bound()), lambda: len(step_store.committed("shards"))


def _begun(marks: Path) -> list[tuple[int, int]]:
    """Returns (shard, process) pairs in the order in which the shards started."""
    lines = marks.read_text().splitlines() if marks.exists() else []
    return [(int(number), int(pid)) for number, pid in map(str.split, lines)]


def _until(found: Callable[[], Any]) -> Any:
    while not (value := found()):
        time.sleep(POLL)
    return value


def _kill(marks: Path, halfway: int, times: dict[str, float]) -> None:
    lines = _until(lambda: found if len(found := _begun(marks)) >= halfway else None)
    number, pid = lines[-1]
    os.kill(pid, signal.SIGKILL)
    began, old = time.monotonic(), {pid for _, pid in lines}
    times["killed"] = began
    behind = len(lines)
    for _ in range(2):
        what = _until(lambda: _news(_begun(marks)[behind:], number, old, times))
        times[what] = time.monotonic() - began


def _news(lines: Iterable[tuple[int, int]], lost: int, old: set[int], known: dict[str, float]) -> str | None:
    for number, pid in lines:
        if number == lost and "again" not in known:
            return "again"
        if pid not in old and "replaced" not in known:
            return "replaced"
    return None


def _data_files(folder: str) -> int:
    return sum(1 for path in Path(folder).rglob("*.parquet"))


def own_memory() -> int:
    """Returns this process's resident bytes that belong to no file and no other process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


# The processes


def one(part: str, system: str, arguments: str) -> None:
    """Measures in this process, and prints the results as JSON."""
    from dgflow.runtime.cluster import connect

    options = argparse.Namespace(**json.loads(arguments))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        root = f"{folder}/root"
        connect(open_store(root))
        print(json.dumps(PARTS[part](SYSTEMS[system], options, root)), flush=True)
    os._exit(0)  # a thread may still wait for a result that never comes


def measured(part: str, system: str, options: argparse.Namespace, limit: float) -> dict[str, Any]:
    """Measures a part of one system, in a separate process that is ended after `limit` seconds."""
    arguments = json.dumps(vars(options))
    program = f"import ray_data; ray_data.one({part!r}, {system!r}, {arguments!r})"
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": path}
    try:
        ended = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"stopped after {limit:.0f} s"}
    lines = ended.stdout.strip().splitlines()
    if ended.returncode or not lines:
        return {"problem": (ended.stderr.strip().splitlines() or ["no output"])[-1]}
    return json.loads(lines[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--many", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--wait", type=float, default=0.1, help="seconds per shard, in place of sampling")
    parser.add_argument("--seconds", type=float, default=120.0, help="time limit of the empty shards")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    options = parser.parse_args()
    for part in options.parts:
        rows = {name: measured(part, name, options, options.seconds + 120.0) for name in SYSTEMS}
        columns = list(dict.fromkeys(key for row in rows.values() for key in row))
        cells = [[_cell(row.get(key)) for key in columns] for row in rows.values()]
        named = [[TITLES[name], *row] for name, row in zip(rows, cells, strict=True)]
        print("\n".join(aligned([[part, *columns], *named])) + "\n", flush=True)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, int) and value >= 1_000_000:
        return f"{value / 1e6:.1f} MB"
    return "" if value is None else str(value)


if __name__ == "__main__":
    main()
