"""Shows the progress of a run: on standard error, as a bar in a terminal, else a line from time to time, and
in the root, as the driver's sign of life."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dgflow.runtime.environment import first_line
from dgflow.runtime.heartbeat import Heartbeat, new_record
from dgflow.specs.graph import Node
from dgflow.specs.step import Step
from dgflow.store.objects import ObjectStore
from dgflow.store.runs import Asked, without_secrets

LINE_SECONDS = 15.0


class Progress:
    """Tells when each step is reused, worked on and done. `asked` is the command that a person gave."""

    def __init__(self, asked: Asked | None = None) -> None:
        self.terminal = sys.stderr.isatty()
        self._asked = asked or Asked(command=without_secrets(sys.argv))
        self._nodes: Sequence[Node] = ()
        self._number = 0  # of the present step, from 1
        self._store: ObjectStore | None = None
        self._heart: Heartbeat | None = None

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def tell(self, line: str) -> None:
        """A line about the workers, with the time."""
        self.say(f"{time.strftime('%H:%M:%S')} {line}")
        self._beat(does=line)

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
            if self._heart is not None:
                self._heart.stop(outcome)
            self._heart, self._store = None, None

    def reused(self, title: str, total: int, unit: str) -> None:
        self._number += 1
        self.say(f"{title}: reused, {_count(total, unit)}")

    @contextmanager
    def step(self, step: Step, *, total: int, done: int) -> Iterator[Callable[[int], None]]:
        """The context of the work on one step; its value is to be called with the number of newly done
        parts."""
        began = time.monotonic()
        self._number += 1
        self._begin(step, total, done)
        body = self._bar if self.terminal else self._lines
        with body(step.title, step.unit, total, done) as advance:

            def both(count: int) -> None:
                nonlocal done
                done += count
                advance(count)
                self._beat(done=done, step_seconds=time.monotonic() - began)

            yield both
        self.say(f"{step.title}: done, {_count(total, step.unit)} in {time.monotonic() - began:.0f} s")
        self._beat(step=None, title="", does="between steps")

    def _begin(self, step: Step, total: int, done: int) -> None:
        names = {"step": step.name, "title": step.title, "unit": step.unit, "does": ""}
        counts = {"number": self._number, "done": done, "wanted": total, "step_seconds": 0.0}
        if self._heart is None and self._store is not None:
            self._heart = Heartbeat(self._store, new_record(self._asked, self._nodes))
            self._heart.tell(**names, **counts)
            self._heart.start()
        else:
            self._beat(now=True, **names, **counts)

    def _beat(self, *, now: bool = False, **what: Any) -> None:
        if self._heart is not None:
            self._heart.tell(now=now, **what)

    @contextmanager
    def _lines(self, title: str, unit: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
        last_line, first = time.monotonic(), None
        self.say(f"{title}: {done} of {_count(total, unit)} there, working")

        def advance(count: int) -> None:
            nonlocal done, last_line, first
            if not count:
                return
            done, now = done + count, time.monotonic()
            if first is None:
                first = (now, done)  # the rate is measured from here: what came before is the workers' start
            if now - last_line >= LINE_SECONDS and done < total:
                left = ""
                if done > first[1]:
                    seconds = (now - first[0]) / (done - first[1]) * (total - done)
                    left = f", about {seconds:.0f} s left"
                self.say(f"{title}: {done} of {_count(total, unit)}{left}")
                last_line = now

        yield advance

    @contextmanager
    def _bar(self, title: str, unit: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
        from rich import progress as rich
        from rich.console import Console

        counts = (rich.BarColumn(), rich.MofNCompleteColumn(), rich.TextColumn(unit))
        times = (rich.TimeElapsedColumn(), rich.TimeRemainingColumn())
        columns = (rich.TextColumn("{task.description}"), *counts, *times)
        with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=total, completed=done)
            yield lambda count: bar.advance(task, count)


def _count(total: int, unit: str) -> str:
    return "1 result" if unit == "result" else f"{total:,} {unit[:-1] if total == 1 else unit}"
