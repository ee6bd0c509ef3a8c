"""Simulated hosts, workers and time, for the pool's scheduling policy: hours with hundreds of hosts in
seconds.

The clock advances only while the pool waits. Hosts join, are lost, are cut off and die by the test's own
schedule (`at`). The test's function defines the work on an item: it returns the seconds that it takes, and
may name an error.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from dgflow.runtime.pool.fleet import End, Place, Room
from dgflow.runtime.pool.pool import Failure, Pool


@dataclass
class Does:
    """The work on an item: takes `seconds`, then raises `error`, or kills its worker."""

    seconds: float = 1.0
    error: BaseException | None = None
    dies: bool = False


@dataclass(eq=False)
class SimulatedCall:
    item: Any
    worker: SimulatedWorker
    name: str = ""
    end: End | None = None
    withdrawn: bool = False


@dataclass(eq=False)
class SimulatedWorker:
    avoid: frozenset[str]
    asked: float
    ready: Any = None  # a SimulatedCall
    host: SimulatedHost | None = None
    slot: int = 0  # the first free place on its host
    queue: deque[SimulatedCall] = field(default_factory=deque)
    ready_at: float | None = None
    begun_at: float | None = None  # start of the current work
    idle_since: float | None = None  # time since which it has been idle


@dataclass(eq=False)
class SimulatedHost:
    id: str
    name: str
    places: int
    starts: Callable[[], Does]  # the start of a worker
    workers: list[SimulatedWorker] = field(default_factory=list)
    dead: bool = False  # its processes have ended
    listed: bool = True  # the cluster counts it as alive
    cut: bool = False  # no messages from it arrive
    sick: dict[int, Does] = field(default_factory=dict)  # the work on any item in a slot

    @property
    def free_slot(self) -> int:
        return min(set(range(self.places)) - {worker.slot for worker in self.workers})


class SimulatedFleet:
    """`does(item, host name)` returns the work on an item; `most` is what an autoscaler may add (None: there
    is none)."""

    needs = "1 GPU"

    def __init__(
        self,
        does: Callable[[Any, str], Does] = lambda item, host: Does(),
        *,
        elastic: bool = True,
        most: int | None = None,
    ) -> None:
        self.elastic, self.most, self.does = elastic, most, does
        self.now = 0.0
        self.running: list[SimulatedHost] = []
        self.pending: list[SimulatedWorker] = []
        self.runs: list[tuple[float, Any, str]] = []  # (when, item, host) for every start
        self.names: list[str] = []  # of calls
        self.stopped: list[tuple[float, str | None]] = []
        self.idle: list[
            tuple[float, float]
        ] = []  # (when, seconds that a worker had been idle) for every start after idling
        self.busy_seconds = 0.0  # of items that completed or died in progress
        self.worker_seconds = 0.0  # total lifetime of the workers, from ready on
        self.own_cpu = 0.0  # seconds of CPU of the simulation itself
        self._events: list[tuple[float, int, Callable[[], SimulatedCall | None]]] = []
        self._order = count()
        self._ids = count()

    # The schedule

    def at(self, when: float, what: Callable[[], SimulatedCall | None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), what))

    def join(
        self, name: str, places: int = 1, starts: Callable[[], Does] = lambda: Does(2.0)
    ) -> SimulatedHost:
        host = SimulatedHost(f"id{next(self._ids)}", name, places, starts)
        self.running.append(host)
        self._place()
        return host

    def lose(self, host: SimulatedHost, *, noticed: float = 0.0) -> None:
        """Ends the host's processes now; the cluster stops listing it `noticed` seconds later."""
        host.dead = True
        for worker in list(host.workers):
            self._worker_dies(worker, "connection lost")
        if noticed:
            self.at(self.now + noticed, lambda: self._unlist(host))
        else:
            host.listed = False

    def cut(self, host: SimulatedHost, *, noticed: float) -> None:
        """Cuts the host off; the cluster stops listing it `noticed` seconds later.

        No call to the host ever ends.
        """
        host.cut = True
        self.at(self.now + noticed, lambda: self._unlist(host))

    def _unlist(self, host: SimulatedHost) -> None:
        host.listed = False

    def workers_on(self, name: str) -> int:
        return sum(len(host.workers) for host in self.running if host.name == name)

    # The fleet's interface

    def clock(self) -> float:
        return self.now

    def load(self, make: Callable[[], Any]) -> None:
        pass

    def start(self, avoid: Collection[str]) -> tuple[Any, Any]:
        worker = SimulatedWorker(frozenset(avoid), self.now)
        worker.ready = SimulatedCall(None, worker)
        self.pending.append(worker)
        self._place()
        return worker, worker.ready

    def submit(self, worker: Any, loaded: Any, item: Any, name: str) -> Any:
        call = SimulatedCall(item, worker, name)
        self.names.append(name)
        worker.queue.append(call)
        if worker not in (worker.host.workers if worker.host else []):
            call.end = End(error=RuntimeError("the worker is gone"), died=True)
        elif len(worker.queue) == 1:
            self._begin(worker)
        return call

    def cancel(self, call: Any) -> None:
        call.withdrawn = True

    def wait(self, calls: list[Any], seconds: float) -> list[Any]:
        began, until = time.process_time(), self.now + seconds
        watched = set(calls)
        ended = [call for call in calls if call.end is not None and not self._silent(call)]
        while not ended and self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            if (call := what()) is not None:
                ended = [call] if call in watched and call.end is not None else []
            else:  # an event of the schedule: it may have ended many calls
                ended = [call for call in calls if call.end is not None and not self._silent(call)]
        if not ended:
            self.now = until
        self.own_cpu += time.process_time() - began
        return ended

    def end(self, call: Any) -> End:
        return call.end

    def stop(self, worker: Any) -> None:
        self.stopped.append((self.now, worker.host.name if worker.host else None))
        if worker in self.pending:
            self.pending.remove(worker)
        if worker.host and worker in worker.host.workers:
            self._remove(worker)
            self._place()

    def hosts(self) -> dict[str, str]:
        return {host.id: host.name for host in self.running if host.listed}

    def room(self) -> Room:
        now = sum(host.places for host in self.running if host.listed)
        return Room(now, max(now, self.most or 0))

    # Internals

    def _silent(self, call: SimulatedCall) -> bool:
        return call.worker.host is not None and call.worker.host.cut

    def _place(self) -> None:
        for host in self.running:
            while not host.dead and not host.cut and len(host.workers) < host.places:
                worker = next((worker for worker in self.pending if host.id not in worker.avoid), None)
                if worker is None:
                    break
                self.pending.remove(worker)
                worker.host, worker.slot = host, host.free_slot
                host.workers.append(worker)
                does = host.starts()
                self.at(self.now + does.seconds, lambda worker=worker, does=does: self._started(worker, does))

    def _started(self, worker: SimulatedWorker, does: Does) -> SimulatedCall:
        host = worker.host
        assert host is not None
        if worker.ready.end is None and worker in host.workers:
            if does.dies:
                self._worker_dies(worker, "no memory to start in")
            elif does.error is not None:
                worker.ready.end = End(error=does.error)
            else:
                worker.ready.end = End(value=Place(host.id, str(worker.slot)))
                worker.ready_at = worker.idle_since = self.now
        return worker.ready

    def _begin(self, worker: SimulatedWorker) -> None:
        assert worker.host is not None
        call = worker.queue[0]
        does = (
            Does(0.0)
            if call.withdrawn
            else worker.host.sick.get(worker.slot) or self.does(call.item, worker.host.name)
        )
        if not call.withdrawn:
            self.runs.append((self.now, call.item, worker.host.name))
            if worker.idle_since is not None:
                self.idle.append((self.now, self.now - worker.idle_since))
            worker.idle_since = None
            worker.begun_at = self.now
        self.at(self.now + does.seconds, lambda: self._done(worker, call, does, withdrawn=call.withdrawn))

    def _done(
        self, worker: SimulatedWorker, call: SimulatedCall, does: Does, *, withdrawn: bool
    ) -> SimulatedCall:
        if call.end is not None or worker.host is None or worker not in worker.host.workers:
            return call  # it died or was stopped before
        if does.dies:
            self._worker_dies(worker, "killed")
            return call
        call.end = (
            End(cancelled=True)
            if withdrawn
            else End(error=does.error)
            if does.error
            else End(value=(call.item, worker.host.name))
        )
        worker.queue.popleft()
        self._worked(worker)
        if worker.queue:
            self._begin(worker)
        else:
            worker.idle_since = self.now
        return call

    def _worker_dies(self, worker: SimulatedWorker, why: str) -> None:
        for call in [worker.ready, *worker.queue]:
            if call.end is None:
                call.end = End(error=RuntimeError(why), died=True)
        self._remove(worker)
        self._place()

    def _remove(self, worker: SimulatedWorker) -> None:
        assert worker.host is not None
        worker.host.workers.remove(worker)
        self._worked(worker)
        if worker.ready_at is not None:
            self.worker_seconds += self.now - worker.ready_at

    def _worked(self, worker: SimulatedWorker) -> None:
        if worker.begun_at is not None:
            self.busy_seconds += self.now - worker.begun_at
            worker.begun_at = None


def nothing() -> Any:
    raise AssertionError("workers are simulated")


def run(
    fleet: SimulatedFleet,
    items: Sequence[Any],
    *,
    workers: int | None = None,
    told: list[tuple[float, str]] | None = None,
    attempts: int = 3,
    **names: str,
) -> tuple[list[tuple[float, Any, Any]], list[Failure]]:
    """Returns results in the order of their arrival, and the items that were given up."""
    results: list[tuple[float, Any, Any]] = []
    pool = Pool(
        workers,
        attempts=attempts,
        tell=None if told is None else lambda line: told.append((fleet.now, line)),
        fleet=fleet,
    )
    with pool:
        failures = pool.map(
            nothing, items, lambda item, result: results.append((fleet.now, item, result[1])), **names
        )
    return results, failures


def items_of(results: list[tuple[float, Any, Any]]) -> list[Any]:
    return sorted(item for _, item, _ in results)
