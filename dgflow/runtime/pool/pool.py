"""The scheduling policy: which worker gets which item, and what a failure means. Nothing here depends on
what runs the workers.

Workers load what they need once and then work through items, two in flight each. An exception or a worker's
death counts against the item that was being worked on, the loss of a host does not. An item that has failed
`attempts` times is given up, and the others go on. Results pass through the driver, so workers commit large
ones to the store. Memory here does not grow with the number of items. `staff` decides how many workers there
are, `hosts` which hosts to avoid, and `fleet` runs the workers.
"""

from __future__ import annotations

import errno
import logging
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

__all__ = ["Failure", "Pool", "WorkersFailed"]

log = logging.getLogger(__name__)

IN_FLIGHT = 2  # the second call waits in the worker's queue, so that it is never idle between items
FAILURES = 2  # of a worker without a success between them, before another one is started in its place
POLL_SECONDS = 1.0
DEATH_LOOK_SECONDS = 0.1  # after a worker's death, how old the list of living hosts may be
# Items given up in a row, and two a worker, after which the rest is not tried: each costs as much as one that
# is done
NOTHING_WORKS = 10
_LASTING = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR}


@dataclass
class Failure:
    """An item that was given up, with the error of its last attempt."""

    item: Any
    attempts: int
    error: BaseException


class _Job:
    """The items of one `map`, and those of them that have to be tried again."""

    def __init__(self, items: Sequence[Any], on_result: Callable[[Any, Any], None], name: str) -> None:
        self.items, self.on_result, self.name = items, on_result, name
        self.open = len(items)
        self.begun = 0
        self.again: deque[Item] = deque()
        self.failures: list[Failure] = []
        self.in_a_row = 0  # given up since the last one that was done

    @property
    def waits(self) -> bool:
        return bool(self.again) or self.begun < len(self.items)

    def take(self, place: Place, usable: set[Place]) -> Item | None:
        """The next item for a worker at `place`: one that failed goes to another host while there is one,
        else to another place."""
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
        return Item(value, value if isinstance(value, int | str) else self.begun - 1)

    def put_back(self, items: list[Item]) -> None:
        """These have to be tried again, unless they are done or another worker has them."""
        self.again.extendleft(item for item in reversed(items) if not item.done and item.calls == 0)


class Pool:
    """Up to `max_workers` workers (None: as many as there is room for), with `num_gpus` GPUs each, or a CPU
    and no GPU where that is 0.

    `tell` gets a line when workers come or go, and while there are none. `fleet` runs them, by default that
    of the `backend`. Leaving the context gives the resources back.
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

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for member in list(self._staff.members):
            self._staff.drop(member)

    @property
    def workers(self) -> int:
        """The number that is ready now."""
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
        """Apply the function that `make()` gives to every item; `on_result(item, result)` is called here once
        per item, as it is done.

        Returns what was given up; where nothing works the rest is not tried. Waits while a cluster has no
        room for a worker. `title` and `unit` name the calls. Raises WorkersFailed where workers died, one
        after another, before any was ready.
        """
        job = _Job(items, on_result, f"{title}: {unit}" if title else unit)
        staff = self._staff
        self._fleet.load(make)
        staff.rest()
        try:
            while job.open:
                if job.in_a_row >= max(NOTHING_WORKS, IN_FLIGHT * len(staff.ready)):
                    message = "%d in a row were given up: the other %d of %s are not tried"
                    log.warning(message, job.in_a_row, job.open, job.name)
                    break
                job.put_back(staff.look())
                staff.adjust(job.open)
                self._assign(job)
                staff.report()
                watched = {
                    member.queue[0].reference if member.queue else member.ready: member
                    for member in staff.members
                    if member.queue or member.host is None
                }
                for reference in self._fleet.wait(list(watched), POLL_SECONDS):
                    if (member := watched[reference]) not in staff.members:
                        continue  # dropped a moment ago, with its host
                    if member.host is None:
                        staff.arrived(member)
                    else:
                        self._ended(job, member, member.host)
        finally:
            for member in staff.members:
                for call in member.queue:
                    call.item.done = True  # a copy that is still running: its end concerns nobody
            staff.drop_pending()
        return job.failures

    def _assign(self, job: _Job) -> None:
        ready = self._staff.ready
        usable = self._staff.hosts.usable({member.host for member in ready if member.host is not None})
        places = {member.place for member in ready if member.place is not None and member.host in usable}
        for length in range(IN_FLIGHT):  # idle workers are served before busy ones
            for member in ready:
                if not job.waits:
                    break
                if len(member.queue) != length or member.place is None or member.host not in usable:
                    continue
                if (item := job.take(member.place, places)) is not None:
                    self._give(job, member, item)
        if idle := [member for member in ready if not member.queue and member.host in usable]:
            self._steal(job, ready, idle)

    def _steal(self, job: _Job, ready: list[Member], idle: list[Member]) -> None:
        """Give idle workers what waits elsewhere. Where it had begun after all, whichever ends first
        counts."""
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
            self._give(job, taker, call.item)
            if not idle:
                return

    def _give(self, job: _Job, member: Member, item: Item) -> None:
        item.calls += 1
        # Named after the job alone: Ray keeps a series of metrics for every name, some 20 KB an item in the
        # driver.
        reference = self._fleet.submit(member.worker, item.value, job.name)
        member.queue.append(Call(reference, item, self._fleet.clock()))

    def _ended(self, job: _Job, member: Member, host: str) -> None:
        end = self._fleet.end(member.queue[0].reference)
        if end.died:
            self._died(job, member, end.error)
            return
        item = member.queue.popleft().item
        item.calls -= 1
        member.idle_since = self._fleet.clock()
        if item.done:
            return
        if end.cancelled:
            job.put_back([item])
        elif end.error is not None:
            self._failed(job, item, member.place, end.error, died=False)
            self._replace(job, member, end.error)
        else:
            item.done = True
            job.open -= 1
            job.in_a_row = 0
            self._staff.succeeded(member)
            for guilty in self._staff.hosts.succeeded(item, host):
                self._set_aside(job, guilty)
            job.on_result(item.value, end.value)

    def _died(self, job: _Job, member: Member, error: BaseException | None) -> None:
        job.put_back(self._staff.look(oldest=DEATH_LOOK_SECONDS))
        if member not in self._staff.members:
            return  # its host is gone, and with it what it had: nobody's fault
        place = member.place
        blamed, *behind = self._staff.drop(member)
        job.put_back(behind)
        if not blamed.done:
            assert error is not None
            self._failed(job, blamed, place, error, died=True)

    def _replace(self, job: _Job, member: Member, error: BaseException) -> None:
        """Another worker in the place of one that can do nothing any more, or failed again and again."""
        if member not in self._staff.members:
            return  # its host was set aside
        member.failures += not _is_lasting(error)
        if isinstance(error, DeviceBroken):
            job.put_back(self._staff.broke(member))
        elif member.failures >= FAILURES:
            job.put_back(self._staff.drop(member))

    def _failed(
        self, job: _Job, item: Item, place: Place | None, error: BaseException, *, died: bool
    ) -> None:
        assert place is not None
        host = place.host
        item.attempts += 1
        item.failed_at.add(place)
        hosts = self._staff.hosts
        hosts.failed(item, host, error, died=died, now=self._fleet.clock())
        what = f"{job.name} {item.label} failed on {hosts.name(host)}: {first_line(error)}"
        log.warning("attempt %d of %d at %s", item.attempts, self.attempts, what)
        # Bad input, bad numbers and a full disk would only fail again, but a bad host (its set-up, its GPU)
        # can raise the same: one more try elsewhere.
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
            job.put_back([item])

    def _set_aside(self, job: _Job, host: str) -> None:
        hosts = self._staff.hosts
        hosts.aside.add(host)
        log.warning(
            "host %s is set aside: what failed there was done elsewhere, and nothing was done there since; "
            "its last error: %s",
            hosts.name(host),
            first_line(hosts.last_error(host)),
        )
        for member in [member for member in self._staff.members if member.host == host]:
            job.put_back(self._staff.drop(member))


def _is_lasting(error: BaseException) -> bool:
    """Tells if the same work would only fail again on the same host."""
    if isinstance(error, OSError):
        return error.errno in _LASTING
    return isinstance(error, ValueError | FloatingPointError | StoreRefusal)
