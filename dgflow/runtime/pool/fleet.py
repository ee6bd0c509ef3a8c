"""The interface between a pool and its workers, independent of the backend.

A fleet starts and stops workers, hands them items, and reports how a call ended and which hosts are alive. It
makes no decisions: the pool decides who gets which item, how many workers there are and what a failure means.
There are two fleets: actors of Ray (`ray_fleet.py`) and local processes (`process_fleet.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

Work = Callable[[Any], Any]

CANCELLED_LATE = 1.0  # seconds that a call has waited before it is cancelled; shorter waits are not checked


class Place(NamedTuple):
    """The place of a worker: the id of its host, and its GPUs, or another key that distinguishes it from
    others there."""

    host: str
    device: str


@dataclass(frozen=True)
class End:
    """The end of a call: `value`; `error`, raised by the work or, if `died`, because the worker is gone or
    unreachable; or `cancelled` before it started."""

    value: Any = None
    error: BaseException | None = None
    died: bool = False
    cancelled: bool = False


@dataclass(frozen=True)
class Room:
    """The number of workers that fit on the hosts that are alive now, and on all that an autoscaler may
    add."""

    now: int
    most: int


class Fleet(Protocol):
    """The operations that a pool needs."""

    needs: str  # the resources of a worker in words: "1 GPU"
    elastic: bool  # hosts come and go, so that releasing workers saves cost

    def clock(self) -> float:
        """Returns monotonic seconds since an arbitrary moment."""
        ...

    def load(self, make: Callable[[], Work]) -> Any:
        """Returns the function that `make()` gives, in the form that `submit` takes. A worker makes it at the
        first item for it, and keeps it until it gets an item for another function."""
        ...

    def start(self, avoid: Collection[str]) -> tuple[Any, Any]:
        """Starts a worker on a host that is not in `avoid`. Returns it, and the call that ends, with its
        `Place`, once the worker is ready; NoDevice is the error of a worker that was given a GPU and cannot
        use it."""
        ...

    def submit(self, worker: Any, loaded: Any, item: Any, name: str) -> Any:
        """Submits the call of `loaded` on `item`, after the calls that the worker already has."""
        ...

    def cancel(self, call: Any) -> None:
        """Cancels a call that has waited for `CANCELLED_LATE`; a call that has started continues."""
        ...

    def wait(self, calls: list[Any], seconds: float) -> list[Any]:
        """Returns the `calls` that have ended, as soon as one has; none after `seconds`."""
        ...

    def end(self, call: Any) -> End: ...

    def stop(self, worker: Any) -> None:
        """Stops a worker immediately, whatever it does, or withdraws the request for it."""
        ...

    def hosts(self) -> dict[str, str]:
        """Returns the names of the hosts that are alive, by id; see `cluster.hosts`."""
        ...

    def room(self) -> Room: ...
