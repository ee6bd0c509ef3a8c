"""Shows the progress of a run on standard error, live in a terminal, else as a line from time to time; and in
the root, as the driver's sign of life."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from dgflow.runtime.environment import first_line
from dgflow.runtime.heartbeat import Heartbeat, new_record
from dgflow.runtime.pace import Pace, Timings
from dgflow.runtime.progress_text import View, lines_now_and_then, live
from dgflow.runtime.training.notes import WITHIN, seconds_within
from dgflow.specs.graph import Node
from dgflow.specs.step import Step
from dgflow.store.objects import ObjectStore
from dgflow.store.runs import Asked, Beat, without_secrets

FORESIGHT_SECONDS = 5.0


class Advance(Protocol):
    """Called with the number of newly done parts, and with the seconds of work that one took, if known."""

    def __call__(self, count: int, seconds: float | None = None) -> None: ...


class Progress:
    """Tells when each step is reused, worked on and done. `asked` is the command that a person gave."""

    def __init__(self, asked: Asked | None = None) -> None:
        self.terminal = sys.stderr.isatty()
        self._asked = asked or Asked(command=without_secrets(sys.argv))
        self._lock = threading.RLock()  # the threads of the sign of life and of the lines read what follows
        self._nodes: Sequence[Node] = ()
        self._number = 0  # of the present step, from 1
        self._step: Step | None = None
        self._pace: Pace | None = None
        self._timings = Timings()
        self._workers = 1  # of the latest step that had several
        self._note: dict[str, Any] = {}  # within the present part
        self._does = ""
        self._began, self._foreseen = 0.0, 0.0
        self._rest = (0.0, 0)  # seconds of the steps behind the present one, and those that are not timed
        self._store: ObjectStore | None = None
        self._heart: Heartbeat | None = None

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def tell(self, line: str) -> None:
        """A line about the workers, with the time."""
        self.say(f"{time.strftime('%H:%M:%S')} {line}")
        self._does = line

    def workers(self, number: int) -> None:
        """So many workers are at work on the step."""
        with self._lock:
            self._workers = max(1, number)
            if self._pace is not None:
                self._pace.workers = self._workers

    def epoch(self, note: Mapping[str, Any]) -> None:
        """The newest note of the epoch in training: its step and loss."""
        with self._lock:
            self._note = {name: note[name] for name in WITHIN if name in note}
            if self._pace is not None and note.get("step"):
                self._pace.within(note["step"] / note["steps"], seconds_within(note))

    def pieces(self, done: int, total: int) -> None:
        """So many of the pieces of work on a result are done."""
        with self._lock:
            self._note = {"pieces": done, "of": total}

    @contextmanager
    def run(self, nodes: Sequence[Node], store: ObjectStore) -> Iterator[None]:
        """The context of the work on these steps. The root gets the record of the run, and signs of life,
        from the first step that is not reused."""
        self._nodes, self._number, self._store = nodes, 0, store
        outcome = "interrupted"
        try:
            yield
            outcome = "done"
        except Exception as error:
            outcome = f"failed: {first_line(error)}"
            raise
        finally:
            if self._step is not None and outcome == "interrupted":
                view = self._view()
                self.say(f"stopped in {view.place}: {view.counts} committed")
            if self._heart is not None:
                self._heart.stop(outcome)
            self._heart, self._store = None, None

    def reused(self, step: Step, total: int, seconds: Callable[[], Sequence[float]] = list) -> None:
        """A step is complete; `seconds` gives what some of its parts took."""
        self._number += 1
        self._timings.remember(step, seconds)
        self.say(f"{step.title}: reused, {_count(total, step.unit)}")

    @contextmanager
    def step(self, step: Step, *, total: int, done: int, known: Sequence[float] = ()) -> Iterator[Advance]:
        """The context of the work on one step, of whose parts some that are done took `known` seconds."""
        pace = self._begin(step, total, done, known)

        def advance(count: int, seconds: float | None = None) -> None:
            with self._lock:
                pace.finished(count, seconds)
                self._note = {}
                if time.monotonic() - self._foreseen >= FORESIGHT_SECONDS:
                    self._foresee()

        try:
            with self._shown():
                yield advance
        except Exception:
            self._step = None  # its error says where
            raise
        with self._lock:
            self._foresee()
            took = time.monotonic() - self._began
            self._step, self._pace, self._note = None, None, {}
        self.say(f"{step.title}: done, {_count(total, step.unit)} in {took:.0f} s")

    def _begin(self, step: Step, total: int, done: int, known: Sequence[float]) -> Pace:
        with self._lock:
            self._number += 1
            self._step, self._pace = step, Pace(total, done, known=known)
            self._pace.workers = self._workers if step.folder == "shards" else 1
            self._note, self._does, self._began = {}, "", time.monotonic()
            self._foresee()
        if self._heart is not None:
            self._heart.now()
        elif self._store is not None:
            self._heart = Heartbeat(self._store, new_record(self._asked, self._nodes), self._beat)
            self._heart.start()
        return self._pace

    def _foresee(self) -> None:
        """Take the pace of the present step into the estimate of those behind it."""
        self._foreseen = time.monotonic()
        assert self._step is not None and self._pace is not None
        if self._pace.made:
            together = self._step.folder == "shards"  # else the start of the processes counts too
            own = (self._foreseen - self._began) / self._pace.made
            self._timings.add(self._step, self._pace.each or own if together else own)
        self._rest = self._timings.rest(self._nodes[self._number :], self._workers)

    def _shown(self) -> AbstractContextManager[None]:
        if self.terminal:
            return live(self._view)
        return lines_now_and_then(self._view, self.say)

    def _view(self) -> View:
        """What there is to show now."""
        with self._lock:
            step, pace = self._step, self._pace
            assert step is not None and pace is not None
            return View(
                title=step.title,
                number=self._number,
                of=max(len(self._nodes), self._number),
                unit=step.unit,
                done=pace.done,
                total=pace.total,
                elapsed=time.monotonic() - self._began,
                left=pace.left(),
                rest=self._rest[0],
                untimed=self._rest[1],
                note=self._note,
            )

    def _beat(self) -> Beat:
        with self._lock:
            if self._step is None:
                return Beat(number=self._number, of=len(self._nodes), does="between steps")
            view = self._view()
            return Beat(
                step=self._step.name,
                title=view.title,
                number=view.number,
                of=view.of,
                done=view.done,
                wanted=view.total,
                unit=view.unit,
                does=self._does,
                step_seconds=view.elapsed,
                step_left=view.left,
                run_left=view.run_left,
                untimed=view.untimed,
            )


def _count(total: int, unit: str) -> str:
    return "1 result" if unit == "result" else f"{total:,} {unit[:-1] if total == 1 else unit}"
