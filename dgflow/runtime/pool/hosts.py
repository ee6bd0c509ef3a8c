"""A pool's records of its hosts, which distinguish a bad item from a bad host (a full disk, a wrong clock).

If an item fails on one host and succeeds on another, the first host is suspected. `Hosts` counts these cases,
withholds work from a suspected host, and decides when to set it aside. It calls no worker.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from dgflow.runtime.pool.fleet import Place

# Failures on a host with a later success elsewhere, after which it is set aside: one may be chance
ACQUITTALS = 2
HOST_DEATH_SECONDS = 60.0  # Ray may report the death of a worker this long before the death of its host


@dataclass(eq=False)
class Item:
    """An item of a job: its value and label, its failures by host and place, and its calls in progress."""

    job: Any
    value: Any
    label: Any
    attempts: int = 0
    calls: int = 0
    done: bool = False
    failed_on: dict[str, int] = field(default_factory=dict)  # host -> the host's successes at that time
    failed_at: set[Place] = field(default_factory=set)


@dataclass
class _Record:
    successes: int = 0
    acquitted: int = 0  # items that failed here since the host's last success, and succeeded elsewhere
    doubts: set[Item] = field(default_factory=set)  # open items that failed only here since the last success
    deaths: list[tuple[float, Item]] = field(default_factory=list)  # (time, item) of workers that died
    last_error: BaseException | None = None


class Hosts:
    """The records of the hosts that are alive, by id."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # of the hosts that are alive
        self.aside: set[str] = set()
        self._records: dict[str, _Record] = {}

    def name(self, host: str) -> str:
        return self.names.get(host, host)

    def last_error(self, host: str) -> BaseException | None:
        return self._record(host).last_error

    def seen(self, names: dict[str, str], now: float) -> None:
        """Records the living hosts. A lost host was probably the cause of the deaths of its workers shortly
        before, so those no longer count against their items."""
        self.names = names
        for host in [host for host in self._records if host not in names]:
            for when, item in self._records.pop(host).deaths:
                if now - when <= HOST_DEATH_SECONDS:
                    item.attempts -= 1
        self.aside &= names.keys()

    def succeeded(self, item: Item, host: str) -> list[str]:
        """Records that an item succeeded on `host`; returns the hosts to set aside now, on which this item
        and others had failed."""
        self.closed(item)
        record = self._record(host)
        record.successes += 1
        record.acquitted = 0
        record.doubts.clear()
        record.deaths.clear()
        guilty = []
        for other, successes in item.failed_on.items():
            suspect = self._records.get(other)
            if other == host or suspect is None or suspect.successes != successes:
                continue
            suspect.acquitted += 1
            if suspect.acquitted >= ACQUITTALS and other not in self.aside:
                guilty.append(other)
        return guilty

    def failed(self, item: Item, host: str, error: BaseException, *, died: bool, now: float) -> None:
        """Records a failed attempt on `host` that counts against the item."""
        self.closed(item)
        record = self._record(host)
        if not item.failed_on:
            record.doubts.add(item)
        item.failed_on[host] = record.successes
        record.last_error = error
        if died:
            recent = [death for death in record.deaths if now - death[0] <= HOST_DEATH_SECONDS]
            record.deaths = [*recent, (now, item)]

    def closed(self, item: Item) -> None:
        """Records that the item is done, was given up, or has failed on another host too, so that it no
        longer counts against a host."""
        for host in item.failed_on:
            if host in self._records:
                self._records[host].doubts.discard(item)

    def usable(self, ready: Collection[str]) -> set[str]:
        """Returns the hosts in `ready` that receive work: those with fewer than `ACQUITTALS` unexplained
        failures, or all if there are none. So a bad host does not fail every item once."""
        return {host for host in ready if len(self._record(host).doubts) < ACQUITTALS} or set(ready)

    def _record(self, host: str) -> _Record:
        return self._records.setdefault(host, _Record())
