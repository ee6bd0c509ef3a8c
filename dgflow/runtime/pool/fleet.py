"""The interface between a pool and its workers, independent of the backend.

A fleet starts and stops workers, sends them items, and reports how a call ended and which hosts are alive. It
makes no decisions: the pool decides which worker gets which item, how many workers there are, and what
follows from a failure. There are two fleets: Ray actors (`ray_fleet.py`) and local processes
(`process_fleet.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

Work = Callable[[Any], Any]

CANCELLED_LATE = 1.0  # seconds: a call is cancelled only after it has waited this long


class Place(NamedTuple):
    """The place of a worker: the id of its host, and its GPUs or another key that is unique on that host."""

    host: str
    device: str


@dataclass(frozen=True)
class End:
    """The outcome of a call. `error` was raised by the work, or if `died`, the worker has died or cannot be
    reached. `cancelled` calls never started. Otherwise `value` is the result."""

    value: Any = None
    error: BaseException | None = None
    died: bool = False
    cancelled: bool = False


@dataclass(frozen=True)
class Room:
    """The number of workers that fit `now`, and the `most` that fit with all hosts that an autoscaler may
    add."""

    now: int
    most: int


class Fleet(Protocol):
    """The operations that a pool needs."""

    needs: str  # the resources of a worker in words: "1 GPU"
    elastic: bool  # True if hosts come and go, so that releasing workers saves cost

    def clock(self) -> float:
        """Returns monotonic seconds since an arbitrary moment."""
        ...

    def load(self, make: Callable[[], Work]) -> Any:
        """Returns a handle of the function that `make()` returns, for `submit`. A worker calls `make` at its
        first item for the function, and keeps the function until it gets an item for another one."""
        ...

    def start(self, avoid: Collection[str]) -> tuple[Any, Any]:
        """Starts a worker on a host that is not in `avoid`; returns the worker and a call.

        The call ends once the worker is ready; its value is the `Place` of the worker. Its error is NoDevice
        if the worker cannot use its GPU.
        """
        ...

    def submit(self, worker: Any, loaded: Any, item: Any, name: str) -> Any:
        """Queues the call of `loaded` with `item`, after the calls that the worker already has."""
        ...

    def cancel(self, call: Any) -> None:
        """Cancels a call that has waited for `CANCELLED_LATE`; no effect on a call that has started."""
        ...

    def wait(self, calls: list[Any], seconds: float) -> list[Any]:
        """Waits until one of the `calls` has ended; returns all that have ended, none after `seconds`."""
        ...

    def end(self, call: Any) -> End: ...

    def stop(self, worker: Any) -> None:
        """Stops a worker immediately, even if it is busy, or withdraws the request for it."""
        ...

    def hosts(self) -> dict[str, str]:
        """Returns the names of the hosts that are alive, by id; see `cluster.hosts`."""
        ...

    def room(self) -> Room: ...
