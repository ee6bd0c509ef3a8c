"""Progress of a run on standard error: a bar in a terminal, one line every so often elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_SECONDS = 15.0


class Progress:
    """Tells of each step as it is reused, worked on and done. `quiet` says nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.terminal = sys.stderr.isatty() and not quiet

    def say(self, line: str) -> None:
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)

    def reused(self, title: str, total: int, unit: str) -> None:
        self.say(f"{title}: reused, {_count(total, unit)}")

    @contextmanager
    def step(self, title: str, unit: str, *, total: int, done: int) -> Iterator[Callable[[int], None]]:
        """A context for the work on one step; gives the function to call with the number of parts that are newly done."""
        began = time.monotonic()
        body = self._bar if self.terminal else self._lines
        with body(title, unit, total, done) as advance:
            yield advance
        self.say(f"{title}: done, {_count(total, unit)} in {time.monotonic() - began:.0f} s")

    @contextmanager
    def _lines(self, title: str, unit: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
        state = {"done": done, "told": time.monotonic()}
        began = time.monotonic()
        self.say(f"{title}: {done} of {_count(total, unit)} there, working")

        def advance(count: int) -> None:
            state["done"] += count
            now = time.monotonic()
            if count and now - state["told"] >= LINE_SECONDS and state["done"] < total:
                state["told"] = now
                left = (now - began) / max(state["done"] - done, 1) * (total - state["done"])
                self.say(f"{title}: {state['done']:.0f} of {_count(total, unit)}, about {left:.0f} s left")

        yield advance

    @contextmanager
    def _bar(self, title: str, unit: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn(), TimeRemainingColumn())
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=total, completed=done)
            yield lambda count: bar.advance(task, count)


def _count(total: int, unit: str) -> str:
    return "1 result" if unit == "result" else f"{total:,} {unit[:-1] if total == 1 else unit}"
