"""A store with a clock that the test sets, and two concurrent users whose operations the test orders."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from store.faults import FaultyStore

from dgflow.store.objects import Entry

DAY = 86_400.0


@dataclass
class AgingStore(FaultyStore):
    """Passes everything on to `inner`; objects have the times of a clock that only the test moves.

    `clock` is seconds since the epoch.
    """

    clock: float = 1e9
    times: dict[str, float] = field(default_factory=dict)

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data)
        self.times[key] = self.clock

    def create(self, key: str, data: bytes) -> bool:
        if made := super().create(key, data):
            self.times[key] = self.clock
        return made

    def list(self, prefix: str) -> list[Entry]:
        return [replace(entry, modified=self.times[entry.key]) for entry in super().list(prefix)]

    def now(self) -> float:
        return self.clock


class Stepped:
    """A user in a separate thread that waits for permission before each store operation."""

    def __init__(self, store: AgingStore, work: Callable[["SteppedStore"], object]) -> None:
        self._turn, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self.finished = False
        self.error: BaseException | None = None

        def run() -> None:
            try:
                work(
                    SteppedStore(
                        store.inner, clock=store.clock, times=store.times, turn=self._turn, done=self._done
                    )
                )
            except BaseException as error:
                self.error = error
            self.finished = True
            self._done.release()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def step(self) -> None:
        """Let the user do one operation, or finish."""
        self._turn.release()
        assert self._done.acquire(timeout=30)


@dataclass
class SteppedStore(AgingStore):
    turn: threading.Semaphore = field(default_factory=threading.Semaphore)
    done: threading.Semaphore = field(default_factory=threading.Semaphore)

    def _do(self, operation: Callable, *arguments: object) -> object:
        assert self.turn.acquire(timeout=30)
        try:
            return operation(*arguments)
        finally:
            self._finish(operation, arguments)

    def _finish(self, operation: Callable, arguments: tuple) -> None:
        # The time that an operation gives belongs to it: here, and not after the other's turn has come.
        if operation.__name__ in ("put", "create"):
            self.times.setdefault(str(arguments[0]), self.clock)
            if operation.__name__ == "put":
                self.times[str(arguments[0])] = self.clock
        self.done.release()


def interleave(first: Stepped, second: Stepped, turns: Iterable[bool]) -> None:
    """Let the first do an operation for each True, the second for each False, then both to their ends, the
    second before."""
    for turn in turns:
        one = first if turn else second
        if not one.finished:
            one.step()
    for one in (second, first):
        while not one.finished:
            one.step()
    for one in (first, second):
        if one.error:
            raise one.error
