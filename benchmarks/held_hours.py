"""Event-by-event simulation of the GPU hours that a run holds on autoscaled hosts; `benchmarks/scale.py`
defines the steps.

Hosts of eight GPUs are requested while items wait. A host is ready after `boot` seconds, with some variation.
It is released after all its workers have been idle for `WORKER_IDLE` seconds and the host for another `idle`
seconds. All of that time is paid for. A worker loads weights when it changes to another step. The shards of a
step take the same time within 2 %.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

GPUS_PER_HOST = 8
WORKER_IDLE = 15.0  # s before a worker is released: `IDLE_SECONDS` of dgflow/runtime/pool/staff.py
JITTER = 0.02  # relative variation of a shard's time
BOOT_SPREAD = 0.2  # relative variation of a host's boot time


@dataclass(frozen=True)
class Task:
    """A step of `items` items of `seconds` each. A worker that ran another step before first loads for
    `loading` seconds."""

    key: str
    reads: tuple[str, ...]
    kind: Literal["gpu", "cpu", "training", "driver"]
    items: int
    seconds: float
    loading: float = 0.0
    sealing: float = 0.0


@dataclass(frozen=True)
class Cluster:
    """A cluster. `fixed`: all hosts are held from the beginning to the end, as in a Slurm job. `together`:
    steps run concurrently, as in `dgflow.engine.execute`; else one after the other. `load_once`: workers of a
    host share the weights that one of them has read."""

    gpus: int
    boot: float
    idle: float
    cpus: int
    fixed: bool = False
    together: bool = True
    load_once: bool = False


@dataclass
class _Host:
    state: Literal["off", "boot", "on"] = "off"
    since: float = 0.0
    worker_idle: list[float] = field(default_factory=lambda: [0.0] * GPUS_PER_HOST)
    busy: list[bool] = field(default_factory=lambda: [False] * GPUS_PER_HOST)
    step: list[str] = field(default_factory=lambda: [""] * GPUS_PER_HOST)
    loaded: dict[str, float] = field(default_factory=dict)  # time at which a step's network is on the host


@dataclass
class _State:
    waiting: int
    at_work: int = 0
    begun: bool = False


class Simulation:
    """A run of `tasks`, which are in the order in which workers serve them."""

    def __init__(self, tasks: list[Task], cluster: Cluster) -> None:
        self.tasks, self.cluster = tasks, cluster
        self.hosts = [_Host() for _ in range(cluster.gpus // GPUS_PER_HOST)]
        self.states = {task.key: _State(task.items) for task in tasks}
        self.done: set[str] = set()
        self.now, self.held, self.cpus_busy = 0.0, 0.0, 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order, self._chance = count(), random.Random(0)

    def run(self) -> tuple[float, float]:
        """Returns the seconds until the last step is done, and the GPU hours held."""
        self._advance()
        end = 0.0
        while self._events:
            self.now, _, what = heapq.heappop(self._events)
            if not end or not self.cluster.fixed:
                what()
            if not end and len(self.done) == len(self.tasks):
                end = self.now
                for host in self.hosts if self.cluster.fixed else []:
                    self._release(host)
        return end, self.held / 3600

    def _schedule(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), what))

    def _ready_tasks(self) -> list[Task]:
        open_ = [task for task in self.tasks if task.key not in self.done]
        if not self.cluster.together:
            return open_[:1]
        return [task for task in open_ if self.done.issuperset(task.reads)]

    def _advance(self) -> None:
        """Starts ready steps, requests hosts, and releases idle hosts."""
        ready = self._ready_tasks()
        shards = any(task.kind in ("gpu", "cpu") for task in ready)
        for task in ready:
            state = self.states[task.key]
            if task.kind == "driver" and not state.begun:
                state.begun = True
                self._schedule(task.seconds, lambda key=task.key: self._end(key))
            elif task.kind == "training" and not state.begun and not shards:
                self._train(task)
            elif task.kind == "cpu":
                while state.waiting and self.cpus_busy < self.cluster.cpus:
                    state.waiting, state.at_work = state.waiting - 1, state.at_work + 1
                    self.cpus_busy += 1
                    self._schedule(task.seconds, lambda task=task: self._cpu_ended(task))
        self._assign_shards([task for task in ready if task.kind == "gpu" and self.states[task.key].waiting])
        self._request_hosts(ready)
        self._release_idle()

    def _train(self, task: Task) -> None:
        """Runs a training on the GPUs of one host, which are idle, since no shards are in progress."""
        host = next((host for host in self.hosts if host.state == "on"), None)
        if host is None:
            return
        self.states[task.key].begun = True
        host.busy, host.step = [True] * GPUS_PER_HOST, [""] * GPUS_PER_HOST

        def ended() -> None:
            host.busy, host.worker_idle = [False] * GPUS_PER_HOST, [self.now] * GPUS_PER_HOST
            self._end(task.key)

        self._schedule(task.loading + task.seconds, ended)

    def _assign_shards(self, tasks: list[Task]) -> None:
        for host in self.hosts if tasks else []:
            for slot in range(GPUS_PER_HOST) if host.state == "on" else ():
                task = next((task for task in tasks if self.states[task.key].waiting), None)
                if task is None:
                    return
                if not host.busy[slot]:
                    self._assign(host, slot, task)

    def _assign(self, host: _Host, slot: int, task: Task) -> None:
        state = self.states[task.key]
        state.waiting, state.at_work = state.waiting - 1, state.at_work + 1
        loading = 0.0 if host.step[slot] == task.key else task.loading
        if self.cluster.load_once and loading:
            loading = max(0.0, host.loaded.setdefault(task.key, self.now + loading) - self.now)
        host.busy[slot], host.step[slot] = True, task.key

        def ended() -> None:
            host.busy[slot], host.worker_idle[slot] = False, self.now
            state.at_work -= 1
            self._shard_ended(task)

        self._schedule(loading + task.seconds * self._chance.uniform(1 - JITTER, 1 + JITTER), ended)

    def _cpu_ended(self, task: Task) -> None:
        self.cpus_busy -= 1
        self.states[task.key].at_work -= 1
        self._shard_ended(task)

    def _shard_ended(self, task: Task) -> None:
        state = self.states[task.key]
        if not state.waiting and not state.at_work:
            self._schedule(task.sealing, lambda: self._end(task.key))
        self._advance()

    def _end(self, key: str) -> None:
        self.done.add(key)
        self._advance()

    def _request_hosts(self, ready: list[Task]) -> None:
        states = [self.states[task.key] for task in ready if task.kind == "gpu"]
        wanted = sum(state.waiting + state.at_work for state in states)
        wanted = max(wanted, GPUS_PER_HOST * any(task.kind == "training" for task in ready))
        hosts = (
            len(self.hosts) if self.cluster.fixed else min(len(self.hosts), math.ceil(wanted / GPUS_PER_HOST))
        )
        asked = sum(host.state != "off" for host in self.hosts)
        for host in [host for host in self.hosts if host.state == "off"][: max(0, hosts - asked)]:
            host.state, host.since = "boot", self.now
            boot = self.cluster.boot * self._chance.uniform(1 - BOOT_SPREAD, 1 + BOOT_SPREAD)
            self._schedule(boot, lambda host=host: self._start_host(host))

    def _start_host(self, host: _Host) -> None:
        host.state, host.worker_idle, host.loaded = "on", [self.now] * GPUS_PER_HOST, {}
        host.step = [""] * GPUS_PER_HOST
        self._schedule(WORKER_IDLE + self.cluster.idle, self._release_idle)
        self._advance()

    def _release_idle(self) -> None:
        for host in [] if self.cluster.fixed else self.hosts:
            if host.state == "on" and not any(host.busy):
                due = max(host.worker_idle) + WORKER_IDLE + self.cluster.idle
                if self.now >= due - 1e-6:
                    self._release(host)
                elif max(host.worker_idle) == self.now:
                    self._schedule(due - self.now, self._release_idle)

    def _release(self, host: _Host) -> None:
        if host.state != "off":
            self.held += GPUS_PER_HOST * (self.now - host.since)
            host.state, host.loaded = "off", {}
