"""Progress of a run on standard error: a bar in a terminal, one line every so often elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_SECONDS = 15.0


class Progress:
    """Tells of each step as it is reused, worked on and done."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def tell(self, line: str) -> None:
        """Of the workers and where they are, with the time: a log of them."""
        self.say(f"{time.strftime('%H:%M:%S')} {line}")

    def reused(self, title: str, total: int, unit: str) -> None:
        self.say(f"{title}: reused, {_count(total, unit)}")

    @contextmanager
    def step(self, title: str, unit: str, *, total: int, done: int) -> Iterator[Callable[[int], None]]:
        """A context for the work on one step; gives the function to call with the number of parts that are
        newly done."""
        began = time.monotonic()
        body = self._bar if self.terminal else self._lines
        with body(title, unit, total, done) as advance:
            yield advance
        self.say(f"{title}: done, {_count(total, unit)} in {time.monotonic() - began:.0f} s")

    @contextmanager
    def _lines(self, title: str, unit: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
        told, first = time.monotonic(), None
        self.say(f"{title}: {done} of {_count(total, unit)} there, working")

        def advance(count: int) -> None:
            nonlocal done, told, first
            if not count:
                return
            done, now = done + count, time.monotonic()
            if first is None:
                first = (now, done)  # the rate is measured from here: what came before is the workers' start
            if now - told >= LINE_SECONDS and done < total:
                left = (
                    f", about {(now - first[0]) / (done - first[1]) * (total - done):.0f} s left"
                    if done > first[1]
                    else ""
                )
                self.say(f"{title}: {done} of {_count(total, unit)}{left}")
                told = now

        yield advance

    @contextmanager
    def _bar(self, title: str, unit: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=total, completed=done)
            yield lambda count: bar.advance(task, count)


def _count(total: int, unit: str) -> str:
    return "1 result" if unit == "result" else f"{total:,} {unit[:-1] if total == 1 else unit}"
