"""What a pool has seen of its hosts: which one fails what others can do.

An item that fails may be bad, or the host may be (its disk is full, its clock is wrong). The difference shows
when the item is tried elsewhere: `Hosts` counts that, keeps work from a host under suspicion and says when it
is to be set aside. It calls no worker.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

ACQUITTALS = 2  # items that failed on a host and were then done elsewhere: one may be chance
HOST_DEATH_SECONDS = 60.0  # Ray may tell of a worker's death this long before it tells of its host's


@dataclass(eq=False)
class Item:
    """One item on its way: what it is called, how often it failed and where, and how many calls have it now."""

    value: Any
    label: Any
    attempts: int = 0
    calls: int = 0
    done: bool = False
    failed_on: dict[str, int] = field(
        default_factory=dict
    )  # host: how many items had succeeded there by then


@dataclass
class _Record:
    successes: int = 0
    acquitted: int = 0  # since its last success, items that failed here and were done elsewhere
    doubts: set[Item] = field(
        default_factory=set
    )  # since its last success, open items that failed here and nowhere else
    deaths: list[tuple[float, Item]] = field(default_factory=list)  # (when, item)
    last_error: BaseException | None = None


class Hosts:
    """Records of the hosts that are alive, by id."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # of those alive
        self.aside: set[str] = set()
        self._records: dict[str, _Record] = {}

    def name(self, host: str) -> str:
        return self.names.get(host, host)

    def last_error(self, host: str) -> BaseException | None:
        return self._record(host).last_error

    def seen(self, names: dict[str, str], now: float) -> None:
        """These are alive. Deaths that were counted against items shortly before their host went are taken
        back."""
        self.names = names
        for host in [host for host in self._records if host not in names]:
            for when, item in self._records.pop(host).deaths:
                if now - when <= HOST_DEATH_SECONDS:
                    item.attempts -= 1
        self.aside &= names.keys()

    def succeeded(self, item: Item, host: str) -> list[str]:
        """An item was done on `host`; gives the hosts that are to be set aside now, since it and others had
        failed there."""
        self.closed(item)
        record = self._record(host)
        record.successes += 1
        record.acquitted = 0
        record.doubts.clear()
        record.deaths.clear()
        guilty = []
        for other, successes in item.failed_on.items():
            if other == host or (found := self._records.get(other)) is None or found.successes != successes:
                continue
            found.acquitted += 1
            if found.acquitted >= ACQUITTALS and other not in self.aside:
                guilty.append(other)
        return guilty

    def failed(self, item: Item, host: str, error: BaseException, *, died: bool, now: float) -> None:
        """An attempt on `host` was counted against the item."""
        self.closed(item)
        record = self._record(host)
        if not item.failed_on:
            record.doubts.add(item)
        item.failed_on[host] = record.successes
        record.last_error = error
        if died:
            record.deaths = [
                (when, other) for when, other in record.deaths if now - when <= HOST_DEATH_SECONDS
            ] + [(now, item)]

    def closed(self, item: Item) -> None:
        """The item is done, given up, or has failed elsewhere too: it says nothing against a host that has
        yet to be found out."""
        for host in item.failed_on:
            if host in self._records:
                self._records[host].doubts.discard(item)

    def usable(self, ready: Collection[str]) -> set[str]:
        """Those of `ready` that get work: not those with two unsettled failures, so that a bad host does not
        take every item once.

        All, where none is free of them.
        """
        return {host for host in ready if len(self._record(host).doubts) < ACQUITTALS} or set(ready)

    def _record(self, host: str) -> _Record:
        return self._records.setdefault(host, _Record())
