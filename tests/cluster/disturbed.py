"""A cluster to be disturbed, its runs, and their required results."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from cluster import cluster_driver
from cluster.hosts import GCS_PORT, Host, Network, Process, ray_head, ray_worker
from inprocess import complete
from notes import attempts

from dgflow import Generate
from dgflow.engine.root import Root
from dgflow.specs.step import Step
from dgflow.store.open import open_store
from dgflow.store.receipts import Receipt
from dgflow.store.step_store import StepStore


class Cluster:
    """A head without CPUs or GPUs for work, and worker hosts with a CPU and an emulated GPU each."""

    def __init__(
        self,
        network: Network,
        name: str,
        *options: str,
        head: Host | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.network, self.name = network, name
        self.head = head or network.host(f"{name}-head")
        self.ray = ray_head(self.head, *options, env=env)
        self.workers: list[Host] = []
        self._added = 0
        self._runs: list[Process] = []

    def add(
        self,
        count: int = 1,
        *,
        disk_mb: float | None = None,
        env: dict[str, str] | None = None,
        ready: bool = True,
    ) -> list[Host]:
        """Adds worker hosts, which start at the same time.

        With `ready` they have joined when this returns.
        """
        numbers = range(self._added + 1, self._added + count + 1)
        self._added += count
        hosts = [self.network.host(f"{self.name}-worker-{number}", disk_mb=disk_mb) for number in numbers]
        started = [ray_worker(host, self.head, num_gpus=1, env=env, ready=False) for host in hosts]
        for ray in started if ready else ():
            ray.says("Ray runtime started")
        self.workers += hosts
        return hosts

    def lose(self, host: Host) -> None:
        host.kill()
        self.workers.remove(host)

    def have(self, count: int) -> list[Host]:
        """Returns working worker hosts, as many as `count`: more are added, or some are removed.

        A run that still works is what a failed test left. It is ended, and all hosts are new: one may be cut
        off or stopped.
        """
        left = [run for run in self._runs if run.status is None]
        for run in left:
            run.kill()
        for host in list(self.workers) if left else ():
            self.lose(host)
        for host in self.workers[count:]:
            self.lose(host)
        return self.workers + self.add(count - len(self.workers))

    def drive(self, what: str, root: str, source: Path, workers: int | None = None) -> Process:
        address = {"RAY_ADDRESS": f"{self.head.address}:{GCS_PORT}"}
        self._runs.append(drive(self.head, what, root, source, workers, address))
        return self._runs[-1]

    def close(self) -> None:
        for host in [*self.workers, self.head]:
            host.kill()


def made_here(target: Step, root: str) -> str:
    """Builds a step in this process, without Ray, and returns the root. Like the hosts' processes it computes
    with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        complete(target, open_store(root))
    finally:
        torch.set_num_threads(threads)
    return root


@contextmanager
def running(network: Network, name: str, workers: int = 0) -> Iterator[Cluster]:
    made = Cluster(network, name)
    try:
        made.add(workers)
        yield made
    finally:
        made.close()


def drive(
    host: Host,
    what: str,
    root: str,
    source: Path,
    workers: int | None = None,
    env: dict[str, str] | None = None,
) -> Process:
    """Starts a driver on a host: on the cluster that `env` names with RAY_ADDRESS, else with its own Ray."""
    return host.run(
        [
            sys.executable,
            cluster_driver.__file__,
            what,
            root,
            str(source),
            *([str(workers)] if workers else []),
        ],
        env,
    )


@dataclass(frozen=True)
class Undisturbed:
    """The results of an undisturbed run in one process, which every other run has to reproduce."""

    root: str
    source: Path

    @property
    def samples(self) -> Generate:
        return cluster_driver.samples(self.source)

    def begun(self, name: str, *without: str, beside: str | None = None) -> str:
        """Returns a new root with the contents of this one except the steps whose names begin like this; in
        the same bucket, or in the folder `beside`."""
        root = f"{beside or self.root.rsplit('/', 1)[0]}/{name}"
        source, target = open_store(self.root), open_store(root)
        for entry in source.list(""):
            if not entry.key.startswith(without):
                target.put(entry.key, source.get(entry.key))
        return root

    def check(self, root: str, step: Generate) -> None:
        """Checks that every index is in the sealed slice once, every shard has one receipt, and every row
        equals the undisturbed run's bit for bit."""
        assert digests(root, step) == digests(self.root, step)
        assert sealed_indices(root, step) == list(range(step.shard_size * len(parts(self.root, step))))


def store_of(root: str, step: Step) -> StepStore:
    return Root(open_store(root)).step_store(step)


def parts(root: str, step: Step, folder: str = "shards") -> dict[int, Receipt]:
    """Returns receipts by number, as committed: one per part, or the test fails."""
    steps = store_of(root, step)
    committed = steps.committed(folder)
    assert all(len(keys) == 1 for keys in committed.values())
    return {number: steps.receipt(next(iter(keys.values()))) for number, keys in committed.items()}


def digests(root: str, step: Step, folder: str = "shards") -> dict[int, str]:
    """Returns digests of the results by number: equal digests mean equal bits."""
    return {number: receipt.rows_sha256 for number, receipt in parts(root, step, folder).items()}


def in_flight(root: str, step: Step, host: Host, folder: str = "shards") -> dict[int, int]:
    """Returns the parts that were last started on a host and are not committed: number to the process
    there."""
    steps = store_of(root, step)
    begun = {
        number: note["pid"]
        for number, note in attempts(steps, folder).items()
        if note["host"] == host.name and "failed" not in note
    }
    done = steps.committed(folder)
    return {number: pid for number, pid in begun.items() if number not in done}


def stopped_in_a_shard(run: Process, root: str, step: Step, host: Host) -> dict[int, int]:
    """Stops a worker process of a host while it makes a shard; returns the shard's number and the process."""

    def caught() -> dict[int, int]:
        for number, pid in in_flight(root, step, host).items():
            host.signal("STOP", pid)
            if number in in_flight(root, step, host):
                return {number: pid}
            host.signal("CONT", pid)
        return {}

    return run.wait_for(caught, f"shard in flight on {host.name}")


def taken_over(root: str, step: Step, number: int, host: Host, folder: str = "shards") -> bool:
    """True if a part that was started on `host` was later started on another one."""
    return attempts(store_of(root, step), folder)[number]["host"] != host.name


def hosts_of(root: str, step: Step, folder: str = "shards") -> set[str]:
    """Returns the names of the hosts that parts were last started on."""
    return {note["host"] for note in attempts(store_of(root, step), folder).values()}


def written(root: str, key: str) -> float:
    """Returns the time when an object was last written, by the store's clock."""
    [found] = [entry for entry in open_store(root).list(key.rpartition("/")[0]) if entry.key == key]
    return found.modified


def sealed_indices(root: str, step: Step) -> list[int]:
    """Returns all indices in the shards of the step's only manifest, in its order."""
    steps = store_of(root, step)
    [entry] = steps.store.list(f"{steps.name}/manifests")
    start, stop, _ = entry.key.rsplit("/", 1)[1].split("-")
    inputs = next(iter(parts(root, step).values())).inputs
    manifest = steps.manifest(int(start), int(stop), inputs)
    assert manifest is not None
    return [int(index) for part in manifest.entries for index in steps.read_shard(part, ["index"])["index"]]
