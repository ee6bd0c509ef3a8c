"""A pool's records of its hosts, which distinguish a bad item from a bad host (a full disk, a wrong clock).

The difference appears when the item is retried elsewhere. `Hosts` counts such cases, keeps work from a
suspected host, and decides when to set it aside. It calls no worker.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from dgflow.runtime.pool.fleet import Place

ACQUITTALS = 2  # items that failed on a host and then succeeded elsewhere: one may be chance
HOST_DEATH_SECONDS = 60.0  # Ray may report a worker's death this long before its host's


@dataclass(eq=False)
class Item:
    """An item of a job: its name, how often it failed and where, and the number of calls that work on it
    now."""

    job: Any
    value: Any
    label: Any
    attempts: int = 0
    calls: int = 0
    done: bool = False
    failed_on: dict[str, int] = field(default_factory=dict)  # host -> its successes at that time
    failed_at: set[Place] = field(default_factory=set)


@dataclass
class _Record:
    successes: int = 0
    acquitted: int = 0  # since its last success, items that failed here and succeeded elsewhere
    # Since its last success, open items that failed only here
    doubts: set[Item] = field(default_factory=set)
    deaths: list[tuple[float, Item]] = field(default_factory=list)  # (when, item)
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
        """Records the living hosts. Deaths that were counted against items shortly before their host was lost
        are undone."""
        self.names = names
        for host in [host for host in self._records if host not in names]:
            for when, item in self._records.pop(host).deaths:
                if now - when <= HOST_DEATH_SECONDS:
                    item.attempts -= 1
        self.aside &= names.keys()

    def succeeded(self, item: Item, host: str) -> list[str]:
        """Records that an item succeeded on `host`; returns the hosts to set aside now, on which it and other
        items had failed."""
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
        """Records that an attempt on `host` was counted against the item."""
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
        """Records that the item is done, given up, or has failed elsewhere too: it no longer counts against a
        host."""
        for host in item.failed_on:
            if host in self._records:
                self._records[host].doubts.discard(item)

    def usable(self, ready: Collection[str]) -> set[str]:
        """Returns the hosts in `ready` that receive work: those without two unsettled failures, so that a bad
        host does not fail every item once; all, if each has two."""
        return {host for host in ready if len(self._record(host).doubts) < ACQUITTALS} or set(ready)

    def _record(self, host: str) -> _Record:
        return self._records.setdefault(host, _Record())
