"""The scheduling policy: assigns items to workers, and decides what follows from failures. Independent of the
backend.

- A worker loads the function of a job once and then processes items of the job, two in flight.
- Several jobs can be in progress. A worker takes the next item of the first job that has one waiting.
- An exception, or the death of a worker, counts against the retry budget of the item in progress. The loss of
  a host does not. An item that has failed `attempts` times is given up, and the others continue.
- Results pass through the driver, so workers commit large ones to the store. The driver's memory does not
  grow with the number of items.

`staff` decides how many workers there are, `hosts` which hosts to avoid, and `fleet` runs the workers.
"""

from __future__ import annotations

import errno
import logging
from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dgflow.runtime import backend
from dgflow.runtime.devices import DeviceBroken
from dgflow.runtime.environment import first_line
from dgflow.runtime.pool.fleet import CANCELLED_LATE, Fleet, Place, Work
from dgflow.runtime.pool.hosts import Item
from dgflow.runtime.pool.staff import Call, Member, Staff, WorkersFailed
from dgflow.store.objects import StoreRefusal

__all__ = ["Failure", "Job", "Pool", "WorkersFailed"]

log = logging.getLogger(__name__)

IN_FLIGHT = 2  # the second call waits in the worker's queue, so that the worker is never idle between items
FAILURES = 2  # consecutive failures of a worker, after which it is replaced
POLL_SECONDS = 1.0
DEATH_LOOK_SECONDS = 0.1  # maximum age of the list of living hosts when a worker has died
# The other items of a job are not attempted after this many items were given up in a row, or two per worker
# if that is more: an attempt costs as much as a successful item.
NOTHING_WORKS = 10
_LASTING = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR}


@dataclass
class Failure:
    """An item that was given up, with the error of its last attempt."""

    item: Any
    attempts: int
    error: BaseException


class Job:
    """Items that are processed by the same function. A job is `over` once each item is done or given up;
    `failures` has those given up."""

    def __init__(
        self,
        loaded: Any,
        items: Sequence[Any],
        on_result: Callable[[Any, Any], None],
        name: str,
        place: int = 0,
    ) -> None:
        self.loaded, self.items, self.on_result, self.name = loaded, items, on_result, name
        self.place = place
        self.open = len(items)
        self.over = not items
        self.begun = 0
        self.again: deque[Item] = deque()
        self.failures: list[Failure] = []
        self.in_a_row = 0  # items given up since the last success
        self._stopped = False

    @property
    def waits(self) -> bool:
        return bool(self.again) or self.begun < len(self.items)

    def stop(self) -> None:
        """Drops the waiting items; those in progress are finished."""
        self._stopped = True
        self.open -= len(self.items) - self.begun + len(self.again)
        self.begun = len(self.items)
        self.again.clear()

    def take(self, place: Place, usable: set[Place]) -> Item | None:
        """Returns the next item for a worker at `place`; None if there is none for it. A failed item goes to
        another host if possible, otherwise to another place."""
        for item in self.again:
            elsewhere = {
                each for each in usable if each.host not in item.failed_on
            } or usable - item.failed_at
            if place in (elsewhere or usable):
                self.again.remove(item)
                return item
        if self.begun == len(self.items):
            return None
        value = self.items[self.begun]
        self.begun += 1
        return Item(self, value, value if isinstance(value, int | str) else self.begun - 1)

    def put_back(self, item: Item) -> None:
        """Queues the item again, unless it is done or another worker has it."""
        if item.done or item.calls:
            return
        if self._stopped:
            item.done = True
            self.open -= 1
        else:
            self.again.appendleft(item)


class Pool:
    """Workers that process the items of jobs. A context manager, which releases the workers at its end.

    Args:
        max_workers: maximum number of workers; None for as many as fit.
        num_gpus: GPUs per worker; with 0, a CPU per worker and no GPU.
        attempts: retry budget: number of failures after which an item is given up.
        tell: receives a line when the number of workers changes, and while there are none.
        fleet: runs the workers; by default that of the `backend`.
    """

    def __init__(
        self,
        max_workers: int | None,
        *,
        num_gpus: float = 0.0,
        attempts: int = 3,
        tell: Callable[[str], None] | None = None,
        fleet: Fleet | None = None,
    ) -> None:
        self.attempts = attempts
        self._fleet: Fleet = fleet or backend.fleet(num_gpus)
        self._staff = Staff(self._fleet, max_workers, tell or (lambda _line: None))
        self._jobs: list[Job] = []  # jobs that are not over, in the order in which they are served

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for member in list(self._staff.members):
            self._staff.drop(member)

    @property
    def busy(self) -> bool:
        """True while a job is in progress."""
        return bool(self._jobs)

    @property
    def workers(self) -> int:
        """The number of workers that are ready now."""
        return len(self._staff.ready)

    def map(
        self,
        make: Callable[[], Work],
        items: Sequence[Any],
        on_result: Callable[[Any, Any], None],
        *,
        title: str = "",
        unit: str = "shard",
    ) -> list[Failure]:
        """Applies a function to every item; returns the items that were given up.

        Waits while a cluster has no room for a worker. If nothing succeeds, the remaining items are not
        attempted.

        Args:
            make: returns the function; called once per worker.
            on_result: called with (item, result) in this process, once per item that is done.
            title, unit: name the calls, in messages and for Ray.

        Raises:
            WorkersFailed: as `turn`.
        """
        job = self.add(make, items, on_result, title=title, unit=unit)
        try:
            while not job.over:
                self.turn()
        finally:
            self._end(job)
        return job.failures

    def add(
        self,
        make: Callable[[], Work],
        items: Sequence[Any],
        on_result: Callable[[Any, Any], None],
        *,
        title: str = "",
        unit: str = "shard",
        place: int = 0,
    ) -> Job:
        """Adds a job, with the arguments of `map`, which later calls of `turn` process. Workers take items of
        the job with the lowest `place` that has items waiting; among equal places, of the oldest job."""
        name = f"{title}: {unit}" if title else unit
        job = Job(self._fleet.load(make), items, on_result, name, place)
        if not self._jobs:
            self._staff.rest()
        if not job.over:
            insort(self._jobs, job, key=lambda each: each.place)
        return job

    def turn(self, seconds: float = POLL_SECONDS) -> None:
        """Assigns items to workers, and collects the calls that end within `seconds`.

        Raises WorkersFailed if workers died repeatedly before any was ready.
        """
        staff = self._staff
        self._put_back(staff.look())
        staff.adjust(sum(job.open for job in self._jobs))
        self._assign()
        staff.report()
        watched = {
            member.queue[0].reference if member.queue else member.ready: member
            for member in staff.members
            if member.queue or member.host is None
        }
        for reference in self._fleet.wait(list(watched), seconds):
            if (member := watched[reference]) not in staff.members:
                continue  # dropped a moment ago, with its host
            if member.host is None:
                staff.arrived(member)
            else:
                self._ended(member, member.host)
        for job in list(self._jobs):
            if job.open and job.in_a_row >= max(NOTHING_WORKS, IN_FLIGHT * len(staff.ready)):
                message = "%d in a row were given up: the other %d of %s are not attempted"
                log.warning(message, job.in_a_row, job.open, job.name)
                self._end(job)
            elif not job.open:
                self._end(job)

    def stop(self) -> None:
        """Drops the waiting items; the jobs are over once the items in progress have ended."""
        now = self._fleet.clock()
        for job in self._jobs:
            job.stop()
        for member in self._staff.members:
            for call in list(member.queue)[1:]:
                if not call.cancelled and now - call.began >= CANCELLED_LATE:
                    call.cancelled = True
                    self._fleet.cancel(call.reference)

    def _end(self, job: Job) -> None:
        """Ends a job, or gives it up with its waiting items and those in progress."""
        job.over = True
        if job not in self._jobs:
            return
        self._jobs.remove(job)
        for member in self._staff.members:
            for call in member.queue:
                # The results of calls that are still running are ignored.
                call.item.done = call.item.done or call.item.job is job
        if not self._jobs:
            self._staff.drop_pending()

    @staticmethod
    def _put_back(items: list[Item]) -> None:
        """Queues items again, in this order, except those that are done or that another worker has."""
        for item in reversed(items):
            item.job.put_back(item)

    def _assign(self) -> None:
        ready = self._staff.ready
        usable = self._staff.hosts.usable({member.host for member in ready if member.host is not None})
        places = {member.place for member in ready if member.place is not None and member.host in usable}
        for length in range(IN_FLIGHT):  # idle workers are served before busy ones
            for member in ready:
                if not any(job.waits for job in self._jobs):
                    break
                if len(member.queue) != length or member.place is None or member.host not in usable:
                    continue
                items = (job.take(member.place, places) for job in self._jobs if job.waits)
                if (item := next((item for item in items if item is not None), None)) is not None:
                    self._give(member, item)
        if idle := [member for member in ready if not member.queue and member.host in usable]:
            self._steal(ready, idle)

    def _steal(self, ready: list[Member], idle: list[Member]) -> None:
        """Gives idle workers items that wait in the queues of others. If such an item has already started, it
        runs twice, and the first result counts."""
        now = self._fleet.clock()
        for victim in ready:
            if len(victim.queue) < IN_FLIGHT:
                continue
            call = victim.queue[-1]
            if call.cancelled or call.item.done or now - call.began < CANCELLED_LATE:
                continue
            taker = next((member for member in idle if member.host not in call.item.failed_on), None)
            if taker is None:
                continue
            call.cancelled = True
            self._fleet.cancel(call.reference)
            idle.remove(taker)
            self._give(taker, call.item)
            if not idle:
                return

    def _give(self, member: Member, item: Item) -> None:
        item.calls += 1
        # The name has no item, because Ray keeps a series of metrics per name: some 20 KB in the driver.
        reference = self._fleet.submit(member.worker, item.job.loaded, item.value, item.job.name)
        member.queue.append(Call(reference, item, self._fleet.clock()))

    def _ended(self, member: Member, host: str) -> None:
        end = self._fleet.end(member.queue[0].reference)
        if end.died:
            self._died(member, end.error)
            return
        item = member.queue.popleft().item
        job: Job = item.job
        item.calls -= 1
        member.idle_since = self._fleet.clock()
        if item.done:
            return
        if end.cancelled:
            job.put_back(item)
        elif end.error is not None:
            self._failed(item, member.place, end.error, died=False)
            self._replace(member, end.error)
        else:
            item.done = True
            job.open -= 1
            job.in_a_row = 0
            self._staff.succeeded(member)
            for guilty in self._staff.hosts.succeeded(item, host):
                self._set_aside(guilty)
            job.on_result(item.value, end.value)

    def _died(self, member: Member, error: BaseException | None) -> None:
        self._put_back(self._staff.look(oldest=DEATH_LOOK_SECONDS))
        if member not in self._staff.members:
            return  # its host was lost, so the death does not count against an item
        place = member.place
        blamed, *behind = self._staff.drop(member)
        self._put_back(behind)
        if not blamed.done:
            assert error is not None
            self._failed(blamed, place, error, died=True)

    def _replace(self, member: Member, error: BaseException) -> None:
        """Replaces a worker whose device failed, or that failed repeatedly."""
        if member not in self._staff.members:
            return  # its host was set aside
        member.failures += not _is_lasting(error)
        if isinstance(error, DeviceBroken):
            self._put_back(self._staff.broke(member))
        elif member.failures >= FAILURES:
            self._put_back(self._staff.drop(member))

    def _failed(self, item: Item, place: Place | None, error: BaseException, *, died: bool) -> None:
        assert place is not None
        host, job = place.host, item.job
        item.attempts += 1
        item.failed_at.add(place)
        hosts = self._staff.hosts
        hosts.failed(item, host, error, died=died, now=self._fleet.clock())
        what = f"{job.name} {item.label} failed on {hosts.name(host)}: {first_line(error)}"
        log.warning("attempt %d of %d at %s", item.attempts, self.attempts, what)
        # Bad input, non-finite numbers and a full disk would fail again. But a bad host (its set-up, its GPU)
        # can raise the same errors, so they are retried once on another host.
        elsewhere = any(member.host not in (host, *hosts.aside) for member in self._staff.ready)
        tried = len(item.failed_on) > 1 or not elsewhere
        hopeless = tried and _is_lasting(error)
        if hopeless or item.attempts >= self.attempts:
            item.done = True
            job.open -= 1
            job.in_a_row += 1
            hosts.closed(item)
            job.failures.append(Failure(item.value, item.attempts, error))
        else:
            job.put_back(item)

    def _set_aside(self, host: str) -> None:
        hosts = self._staff.hosts
        hosts.aside.add(host)
        log.warning(
            "host %s is set aside: items that failed there succeeded elsewhere, and none has succeeded there "
            "since; its last error: %s",
            hosts.name(host),
            first_line(hosts.last_error(host)),
        )
        for member in [member for member in self._staff.members if member.host == host]:
            self._put_back(self._staff.drop(member))


def _is_lasting(error: BaseException) -> bool:
    """True if the same work would fail again on the same host."""
    if isinstance(error, OSError):
        return error.errno in _LASTING
    return isinstance(error, ValueError | FloatingPointError | StoreRefusal)
