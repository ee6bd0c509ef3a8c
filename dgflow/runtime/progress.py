"""Shows the progress of a run on standard error: a bar in a terminal, else a line from time to time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_SECONDS = 15.0


class Progress:
    """Tells when each step is reused, worked on and done."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def tell(self, line: str) -> None:
        """A line about the workers, with the time."""
        self.say(f"{time.strftime('%H:%M:%S')} {line}")

    def reused(self, title: str, total: int, unit: str) -> None:
        self.say(f"{title}: reused, {_count(total, unit)}")

    @contextmanager
    def step(self, title: str, unit: str, *, total: int, done: int) -> Iterator[Callable[[int], None]]:
        """The context of the work on one step; its value is to be called with the number of newly done
        parts."""
        began = time.monotonic()
        body = self._bar if self.terminal else self._lines
        with body(title, unit, total, done) as advance:
            yield advance
        self.say(f"{title}: done, {_count(total, unit)} in {time.monotonic() - began:.0f} s")

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
