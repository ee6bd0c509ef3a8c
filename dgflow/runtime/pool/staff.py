"""The workers of a pool: requests as many as the items need, replaces and releases them, and watches hosts.

The items of a worker that is dropped go back to the pool. The fleet makes the calls to Ray.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dgflow.runtime.devices import NoDevice
from dgflow.runtime.environment import first_line
from dgflow.runtime.pool.fleet import Fleet, Place, Room
from dgflow.runtime.pool.hosts import HOST_DEATH_SECONDS, Hosts, Item

log = logging.getLogger(__name__)

MOST_WORKERS = 1000  # maximum that one driver can watch
LOOK_SECONDS = 2.0  # minimum time between two queries for hosts and room, and between two reports of changes
IDLE_SECONDS = 15.0  # idle time after which a worker is released; time without workers before a first message
REMIND_SECONDS = 60.0  # between two messages about a lack of workers
START_DEATHS = 10  # deaths of starting workers in a row, after which the pool fails
BREAKS = 2  # workers in a row with a failed device, after which the device is no longer used
START_PAUSE = 1.0  # seconds between two attempts to start workers after a death at the start
LONGEST_PAUSE = 60.0  # the same while others work, up to which the pause grows: starts slow the others down


class WorkersFailed(RuntimeError):
    """Raised if no worker can be started; its cause is the error of the last one."""


@dataclass(eq=False)
class Call:
    reference: Any
    item: Item
    began: float  # time of submission
    cancelled: bool = False


@dataclass(eq=False)
class Member:
    worker: Any
    ready: Any
    place: Place | None = None  # None while it is pending
    failures: int = 0  # failures since its last success
    parked: bool = False  # kept without work, so that no other worker starts on its failed device
    idle_since: float = 0.0
    queue: deque[Call] = field(default_factory=deque)  # the first call is in progress

    @property
    def host(self) -> str | None:
        """The id of the worker's host; None while it is pending."""
        return None if self.place is None else self.place.host


class Staff:
    """Up to `max_workers` workers (None: as many as fit) of `fleet`; `tell` receives a line when their number
    changes."""

    def __init__(self, fleet: Fleet, max_workers: int | None, tell: Callable[[str], None]) -> None:
        self.members: list[Member] = []
        self.hosts = Hosts()
        self._fleet, self._max_workers, self._tell = fleet, max_workers, tell
        self._broken: Counter[Place] = Counter()  # workers that failed with a place's device
        self._room, self._looked = Room(0, 0), float("-inf")
        self._reported, self._reported_at = (0, 0), float("-inf")
        self._none_since: float | None = None  # start of the time without a ready worker
        self._reminded = float("-inf")
        self._start_deaths, self._first_death, self._start_after = 0, 0.0, float("-inf")

    @property
    def ready(self) -> list[Member]:
        """The workers that can be given work."""
        return [member for member in self.members if member.host is not None and not member.parked]

    @property
    def parked(self) -> list[Member]:
        return [member for member in self.members if member.parked]

    def rest(self) -> None:
        """Resets the idle times at the start of a job, because the time between two jobs does not count."""
        self._none_since = None
        for member in self.members:
            member.idle_since = self._fleet.clock()

    def look(self, *, oldest: float = LOOK_SECONDS) -> list[Item]:
        """Queries the living hosts and the room, unless the last query is less than `oldest` seconds old.

        Drops workers whose host is lost; returns their items. Ray can take minutes to fail a call to a host
        that was cut off.
        """
        now = self._fleet.clock()
        if now - self._looked < oldest:
            return []
        self._room, self._looked = self._fleet.room(), now
        before = self.hosts.names.keys()
        self.hosts.seen(self._fleet.hosts(), now)
        if self.hosts.names.keys() != before:
            # Workers that died at their start may have died with a lost host, and a new host needs no pause.
            self._start_deaths, self._start_after = 0, float("-inf")
        arrived = [member for member in self.members if member.host is not None]
        gone = [member for member in arrived if member.host not in self.hosts.names]
        return [item for member in gone for item in self.drop(member)]

    def adjust(self, open_items: int) -> None:
        """Requests as many workers as the open items can use, and releases surplus ones."""
        now = self._fleet.clock()
        # One is requested even if there is no room, so that an autoscaler sees the demand.
        parked = len(self.parked)
        most = min(self._max_workers or MOST_WORKERS, MOST_WORKERS)
        wanted = min(min(open_items, most) + parked, max(self._room.most, 1))
        while len(self.members) < wanted and now >= self._start_after:
            self.members.append(Member(*self._fleet.start(self.hosts.aside)))
        # On one machine workers are kept: starting a process takes seconds, and the next step needs it.
        if self._fleet.elastic and len(self.members) - parked > open_items:
            pending = [member for member in reversed(self.members) if member.host is None]
            idle = [each for each in self.ready if not each.queue and now - each.idle_since >= IDLE_SECONDS]
            # All idle workers are released, so that the autoscaler can remove a host once its last item has
            # ended.
            for member in (pending + idle)[: len(self.members) - parked - open_items]:
                self.drop(member)

    def arrived(self, member: Member) -> None:
        """Records that a pending worker is ready, or died at its start.

        Raises:
            WorkersFailed: no worker is ready, and `START_DEATHS` times in a row starting workers have died.
        """
        now, end = self._fleet.clock(), self._fleet.end(member.ready)
        if end.error is None:
            member.place, member.idle_since = end.value, now
            self._start_deaths = 0
            if member.host in self.hosts.aside:  # it was starting when the host was set aside
                self.drop(member)
            return
        self.drop(member)
        if isinstance(end.error, NoDevice):
            self._set_aside(end.error)
            return
        log.warning("a worker died before it was ready%s: %s", _on_host(end.error), first_line(end.error))
        if now < self._start_after:
            return  # workers that die together, for example with their host, count as one death
        self._first_death = self._first_death if self._start_deaths else now
        self._start_deaths += 1
        growing = min(START_PAUSE * 2 ** (self._start_deaths - 1), LONGEST_PAUSE)
        self._start_after = now + (growing if self.ready else START_PAUSE)
        # A lost host may be the cause until then.
        long = not self._fleet.elastic or now - self._first_death >= HOST_DEATH_SECONDS
        if self._start_deaths >= START_DEATHS and long and not self.ready:
            raise WorkersFailed(
                f"workers died {self._start_deaths} times before any was ready; the last one's error: "
                f"{first_line(end.error)}"
            ) from end.error

    def _set_aside(self, error: NoDevice) -> None:
        """Sets a host aside whose GPUs cannot be used: no more workers are requested on it.

        Raises:
            WorkersFailed: there is no other host, and no autoscaler that could add one.
        """
        if error.host not in self.hosts.aside:
            log.warning("host %s is set aside: %s", self.hosts.name(error.host), error)
        self.hosts.aside.add(error.host)
        if not self._fleet.elastic and not self.hosts.names.keys() - self.hosts.aside:
            raise WorkersFailed(
                f"no host has a GPU that can be used; the last one's error: {error}"
            ) from error

    def broke(self, member: Member) -> list[Item]:
        """Replaces a worker whose device has failed; returns its items.

        After `BREAKS` workers have failed on a device, the last one is kept there without work, so that no
        other worker starts on that device. If the host has no other device left, it is set aside.
        """
        place, host = member.place, member.host
        assert place is not None and host is not None
        self._broken[place] += 1
        if self._broken[place] < BREAKS:
            return self.drop(member)
        log.warning(
            "GPU %s of host %s is set aside: it failed %d workers in a row",
            place.device,
            self.hosts.name(host),
            self._broken[place],
        )
        items, member.parked = _released(member), True
        on_host = [each for each in self.members if each.host == host]
        if all(each.parked for each in on_host):
            self.hosts.aside.add(host)
            for each in on_host:
                self.drop(each)
        return items

    def succeeded(self, member: Member) -> None:
        """Records that a worker has completed an item."""
        member.failures = 0
        assert member.place is not None
        self._broken.pop(member.place, None)

    def drop(self, member: Member) -> list[Item]:
        """Stops and removes a worker; returns its items, in order."""
        self.members.remove(member)
        self._fleet.stop(member.worker)
        return _released(member)

    def drop_pending(self) -> None:
        """Withdraws the requests for pending workers on a cluster, so that no host starts for work that is
        done."""
        if self._fleet.elastic:
            for member in [member for member in self.members if member.host is None]:
                self.drop(member)

    def report(self) -> None:
        """Reports changes in the number of ready workers, and a long time without any."""
        now, ready = self._fleet.clock(), self.ready
        state = len(ready), len({member.host for member in ready})
        if state != self._reported and now - self._reported_at >= LOOK_SECONDS:
            self._reported, self._reported_at = state, now
            self._tell(
                f"workers: {state[0]} on {state[1]} host{'s' * (state[1] != 1)}, "
                f"{len(self.members) - len(ready)} asked for"
            )
        if ready:
            self._none_since, self._reminded = None, float("-inf")
        elif self._none_since is None:
            self._none_since = now
        elif now - self._none_since >= IDLE_SECONDS and now - self._reminded >= REMIND_SECONDS:
            self._reminded = now
            bounded = self._room.most < MOST_WORKERS
            most = f"{self._room.most} at most" if bounded else "as many as its autoscaler starts"
            self._tell(
                f"no worker for {now - self._none_since:.0f} s, waiting: {len(self.members)} asked for, "
                f"each needs {self._fleet.needs}; "
                f"the cluster has room for {self._room.now} now, for {most}{self._ways_out()}"
            )

    def _ways_out(self) -> str:
        aside = ", ".join(sorted(self.hosts.name(host) for host in self.hosts.aside))
        bad = f"; set aside and not used: {aside}" if aside else ""
        sure = 0 < self._room.most < MOST_WORKERS  # True if hosts with GPUs can certainly be added
        cpus = "; --num-gpus 0 would compute on CPUs" if "GPU" in self._fleet.needs and not sure else ""
        return bad + cpus


def _released(member: Member) -> list[Item]:
    """Removes all items from a worker; returns them in order."""
    items = [call.item for call in member.queue]
    for item in items:
        item.calls -= 1
    member.queue.clear()
    return items


def _on_host(error: BaseException) -> str:
    """Returns ` on the host at ADDRESS` for the host on which a worker died; empty if Ray does not report
    it."""
    address = re.search(r"^\s*ip: (\S+)", str(error), re.MULTILINE)
    return f" on the host at {address[1]}" if address else ""
