"""Reports the progress of a run: on standard error, live in a terminal and otherwise as occasional lines; and
in the root, as the driver's heartbeat."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from dgflow.runtime.environment import first_line
from dgflow.runtime.heartbeat import Heartbeat, new_record
from dgflow.runtime.pace import Pace, Timings
from dgflow.runtime.progress_text import View, lines_now_and_then, live
from dgflow.runtime.terminal import tell
from dgflow.runtime.training.notes import WITHIN, seconds_within
from dgflow.specs.graph import Node
from dgflow.specs.step import Step
from dgflow.store.objects import ObjectStore
from dgflow.store.runs import Asked, Beat, without_secrets

ESTIMATE_SECONDS = 5.0  # minimum time between two estimates of the later steps
NAMED = 3  # maximum number of consecutive reused steps that are printed with a line each


class Advance(Protocol):
    """A callback that receives the number of newly completed parts, and the seconds of work of one if
    known."""

    def __call__(self, count: int, seconds: float | None = None) -> None: ...


@dataclass(eq=False)
class _AtWork:
    """A step in progress."""

    step: Step
    number: int  # counted from 1
    pace: Pace
    note: dict[str, Any] = field(default_factory=dict)  # progress within the current part
    began: float = field(default_factory=time.monotonic)


class Progress:
    """Reports the steps of a run as they are reused, worked on and completed. `asked` is the command that
    started the run."""

    def __init__(self, asked: Asked | None = None) -> None:
        self.terminal = sys.stderr.isatty()
        self._asked = asked or Asked(command=without_secrets(sys.argv))
        self._lock = threading.RLock()  # guards the fields below, which other threads read
        self._nodes: Sequence[Node] = ()
        self._reused: list[tuple[Step, int]] = []  # steps with their parts, not yet reported
        self._waiting: dict[int, Node] = {}  # steps that have not started, by their number
        self._at_work: list[_AtWork] = []  # in the order in which they started
        self._number = 0  # number of the latest step, counted from 1
        self._timings = Timings()
        self._workers = 1  # number of workers that build shards
        self._does = ""  # the latest message about the workers
        self._estimated = 0.0  # time of the latest estimate
        self._rest = (0.0, 0)  # of the waiting steps: seconds of those with a timing, number of the others
        self._screen = ExitStack()  # the live lines, while a step is in progress
        self._store: ObjectStore | None = None
        self._heart: Heartbeat | None = None

    def say(self, line: str) -> None:
        self._say_reused()
        tell(line)

    def _say_reused(self) -> None:
        """Prints the steps that were reused since the last line: up to `NAMED` by name, more in one line."""
        with self._lock:
            reused, self._reused = self._reused, []
            if len(reused) <= NAMED:
                lines = [f"{step.title}: reused, {_count(total, step.unit)}" for step, total in reused]
            else:
                (first, _), (last, _) = reused[0], reused[-1]
                lines = [f"reused: {len(reused)} steps, from {first.title} to {last.title}"]
            for line in lines:
                tell(line)

    def tell(self, line: str) -> None:
        """Prints a message about the workers with the time, and shows it in the heartbeat."""
        self.say(f"{time.strftime('%H:%M:%S')} {line}")
        self._does = line

    def workers(self, step: Step, number: int) -> None:
        """Sets the number of workers, which build the shards of this step and of others."""
        with self._lock:
            self._workers = max(1, number)
            if (at_work := self._find(step)) is not None:
                at_work.pace.workers = self._workers

    def epoch(self, step: Step, note: Mapping[str, Any]) -> None:
        """Records the newest note of a training's current epoch: its step and loss."""
        with self._lock:
            if (at_work := self._find(step)) is None:
                return
            at_work.note = {name: note[name] for name in WITHIN if name in note}
            if note.get("step"):
                at_work.pace.within(note["step"] / note["steps"], seconds_within(note))

    def pieces(self, step: Step, done: int, total: int) -> None:
        """Records that `done` of `total` pieces of the work on a result are done."""
        with self._lock:
            if (at_work := self._find(step)) is not None:
                at_work.note = {"pieces": done, "of": total}

    @contextmanager
    def run(self, nodes: Sequence[Node], store: ObjectStore) -> Iterator[None]:
        """Returns a context for the run of these steps. The run's record and heartbeat are written to the
        root from the first step that is not reused."""
        self._nodes, self._number, self._store = nodes, 0, store
        self._waiting = dict(enumerate(nodes, start=1))
        outcome = "interrupted"
        try:
            yield
            outcome = "done"
        except Exception as error:
            outcome = f"failed: {first_line(error).rstrip(':')}"
            raise
        finally:
            if outcome == "interrupted":
                for view in self._views():
                    self.say(f"stopped in {view.place}: {view.counts} committed")
            self._say_reused()
            self._at_work = []
            if self._heart is not None:
                self._heart.stop(outcome)
            self._heart, self._store = None, None

    def reused(self, step: Step, total: int, seconds: Callable[[], Sequence[float]] = list) -> None:
        """Records that a step is reused; `seconds` returns the durations of some of its parts."""
        self._number = self._begun(step)
        self._timings.remember(step, seconds)
        with self._lock:
            self._reused.append((step, total))

    @contextmanager
    def step(self, step: Step, *, total: int, done: int, earlier: Sequence[float] = ()) -> Iterator[Advance]:
        """Returns a context for the work on one step. `earlier` has the seconds of some of its committed
        parts."""
        at_work = self._begin(step, total, done, earlier)

        def advance(count: int, seconds: float | None = None) -> None:
            with self._lock:
                at_work.pace.finished(count, seconds)
                at_work.note = {}
                if time.monotonic() - self._estimated >= ESTIMATE_SECONDS:
                    self._estimate()

        try:
            with self._shown(at_work):
                yield advance
        except Exception:
            self._at_work.remove(at_work)  # the error itself names the step
            raise
        with self._lock:
            self._estimate()
            took = time.monotonic() - at_work.began
            self._at_work.remove(at_work)
        self.say(f"{step.title}: done, {_count(total, step.unit)} in {took:.0f} s")

    def _begin(self, step: Step, total: int, done: int, earlier: Sequence[float]) -> _AtWork:
        self._say_reused()
        with self._lock:
            self._number = self._begun(step)
            at_work = _AtWork(step, self._number, Pace(total, done, earlier=earlier))
            at_work.pace.workers = self._workers if step.folder == "shards" else 1
            self._at_work.append(at_work)
            self._does = ""
            self._estimate()
        if self._heart is not None:
            self._heart.now()
        elif self._store is not None:
            self._heart = Heartbeat(self._store, new_record(self._asked, self._nodes), self._beat)
            self._heart.start()
        return at_work

    def _begun(self, step: Step) -> int:
        """Removes a step from the waiting ones; returns its number, counted from 1."""
        number = next(number for number, node in self._waiting.items() if node.step is step)
        del self._waiting[number]
        return number

    def _find(self, step: Step) -> _AtWork | None:
        return next((each for each in self._at_work if each.step is step), None)

    def _estimate(self) -> None:
        """Updates the estimate of the waiting steps with the pace of the steps in progress."""
        self._estimated = time.monotonic()
        for each in self._at_work:
            if each.pace.made:
                in_pool = each.step.folder == "shards"  # other steps start processes, which takes time too
                elapsed = (self._estimated - each.began) / each.pace.made
                self._timings.add(each.step, each.pace.each or elapsed if in_pool else elapsed)
        self._rest = self._timings.rest(list(self._waiting.values()), self._workers)

    @contextmanager
    def _shown(self, at_work: _AtWork) -> Iterator[None]:
        """Returns a context that shows the progress of a step. A terminal shows all steps in progress
        together."""
        if not self.terminal:
            with lines_now_and_then(partial(self._view, at_work), self.say):
                yield
            return
        if len(self._at_work) == 1:
            self._screen.enter_context(live(self._views))
        try:
            yield
        finally:
            if self._at_work == [at_work]:
                self._screen.close()

    def _views(self) -> list[View]:
        with self._lock:
            return [self._view(each) for each in self._at_work]

    def _view(self, at_work: _AtWork) -> View:
        """Returns the current view of a step."""
        with self._lock:
            others = [each.pace.left() for each in self._at_work if each is not at_work]
            return View(
                title=at_work.step.title,
                number=at_work.number,
                of=max(len(self._nodes), at_work.number),
                unit=at_work.step.unit,
                done=at_work.pace.done,
                total=at_work.pace.total,
                elapsed=time.monotonic() - at_work.began,
                left=at_work.pace.left(),
                rest=self._rest[0] + sum(left or 0.0 for left in others),
                untimed=self._rest[1] + others.count(None),
                note=at_work.note,
            )

    def _beat(self) -> Beat:
        with self._lock:
            if not self._at_work:
                return Beat(number=self._number, of=len(self._nodes), does="between steps")
            at_work, *others = self._at_work
            view = self._view(at_work)
            beside = [f"concurrently {other.title}, {other.counts}" for other in map(self._view, others)]
            return Beat(
                step=at_work.step.name,
                title=view.title,
                number=view.number,
                of=view.of,
                done=view.done,
                wanted=view.total,
                unit=view.unit,
                does="; ".join(filter(None, [self._does, *beside])),
                step_seconds=view.elapsed,
                step_left=view.left,
                run_left=view.run_left,
                untimed=view.untimed,
            )


def _count(total: int, unit: str) -> str:
    return "1 result" if unit == "result" else f"{total:,} {unit[:-1] if total == 1 else unit}"
