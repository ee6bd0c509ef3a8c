"""What a pool asks of the workers, whatever runs them.

A fleet starts and stops workers, hands them items, and says how a call ended and which hosts are alive. It
decides nothing: who gets what, how many workers there are and what a failure means is the pool's. Two are
here: actors of Ray (`ray_fleet.py`) and processes of this machine (`process_fleet.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

Work = Callable[[Any], Any]

CANCELLED_LATE = (
    1.0  # seconds that a call has waited before it is taken back: after shorter ones nobody looks
)


class Place(NamedTuple):
    """Where a worker computes: the id of its host, and its GPUs, or what else tells it from others there."""

    host: str
    device: str


@dataclass(frozen=True)
class End:
    """The end of a call: `value`; `error`, raised by the work or, where `died`, because the worker is gone or
    out of reach; or `cancelled` before it began."""

    value: Any = None
    error: BaseException | None = None
    died: bool = False
    cancelled: bool = False


@dataclass(frozen=True)
class Room:
    """The number of workers that fit on the hosts that are alive now, and on all that an autoscaler may
    bring."""

    now: int
    most: int


class Fleet(Protocol):
    """The calls that a pool makes."""

    needs: str  # what a worker takes, in words: "1 GPU"
    elastic: bool  # hosts come and go, so that workers are worth giving back

    def clock(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    def load(self, make: Callable[[], Work]) -> Any:
        """The function that `make()` gives, as `submit` takes it. A worker makes it at the first item for it,
        and keeps it until it gets an item for another."""
        ...

    def start(self, avoid: Collection[str]) -> tuple[Any, Any]:
        """A worker on a host that is not in `avoid`, and the call that ends, with its `Place`, once it is
        ready; NoDevice is the error of one that was given a GPU and cannot use it."""
        ...

    def submit(self, worker: Any, loaded: Any, item: Any, name: str) -> Any:
        """The call of `loaded` on `item`, after what the worker already has."""
        ...

    def cancel(self, call: Any) -> None:
        """Take back a call that has waited for `CANCELLED_LATE`; one that has begun goes on."""
        ...

    def wait(self, calls: list[Any], seconds: float) -> list[Any]:
        """The `calls` that have ended, as soon as one has; none after `seconds`."""
        ...

    def end(self, call: Any) -> End: ...

    def stop(self, worker: Any) -> None:
        """End a worker at once, whatever it does, or no longer ask for it."""
        ...

    def hosts(self) -> dict[str, str]:
        """The names of the hosts that are alive, by id; see `cluster.hosts`."""
        ...

    def room(self) -> Room: ...
