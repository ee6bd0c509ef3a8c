"""Formats the progress of a step: live lines for a terminal of any width, and single lines for a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dgflow.runtime.durations import duration
from dgflow.runtime.training.notes import within_epoch

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

# Seconds between the lines of a log: (up to this age of the step, interval)
INTERVALS = ((120.0, 15.0), (3600.0, 60.0))
LATER_INTERVAL = 300.0
BAR = 24  # characters
TICK_SECONDS = 1.0


@dataclass(frozen=True)
class View:
    """The progress of a step, and of the run to which it belongs."""

    title: str
    number: int  # counted from 1
    of: int
    unit: str
    done: int
    total: int
    elapsed: float
    left: float | None  # seconds; None while unknown
    rest: float = 0.0  # seconds of the later steps, as far as they have been timed
    untimed: int = 0  # later steps without a timing
    note: Mapping[str, Any] = field(default_factory=dict)  # progress within the current part

    @property
    def place(self) -> str:
        return f"step {self.number} of {self.of}, {self.title}"

    @property
    def counts(self) -> str:
        return f"{self.done:,} of {self.total:,} {self.unit}"

    @property
    def within(self) -> str:
        """The progress within the current part: `step 120 of 400, loss 0.1234` for an epoch, `12 of 40
        pieces` for a result; otherwise empty."""
        if "step" in self.note:
            return within_epoch(self.note)
        return f"{self.note['pieces']:,} of {self.note['of']:,} pieces" if "pieces" in self.note else ""

    @property
    def step_left(self) -> str:
        return "no estimate yet" if self.left is None else f"about {duration(self.left)} left"

    @property
    def run_left(self) -> float | None:
        """The remaining seconds of this step and of the later steps that have been timed; None if unknown."""
        return None if self.left is None else self.left + self.rest

    @property
    def run(self) -> str:
        """The remaining time of the whole run; empty in the last step."""
        if self.number == self.of:
            return ""
        steps = f"{self.untimed} step{'' if self.untimed == 1 else 's'} not yet timed" if self.untimed else ""
        if self.run_left is None:
            return f"run: {steps or 'no estimate yet'}"
        return f"run: about {duration(self.run_left)} left{f' + {steps}' if steps else ''}"

    def line(self) -> str:
        """Returns one line for a log."""
        within = f" ({self.within})" if self.within else ""
        run = f"; {self.run}" if self.run else ""
        counts = f"{self.counts}{within}, {duration(self.elapsed)} so far, {self.step_left}"
        return f"{self.place}: {counts}{run}"

    def rows(self, width: int) -> list[str]:
        """Returns the lines for a terminal that has `width` columns."""
        done = self.done + (self.note["step"] / self.note["steps"] if "step" in self.note else 0.0)
        filled = round(BAR * min(1.0, done / self.total)) if self.total else 0
        bar = "━" * filled + "─" * (BAR - filled)
        elapsed = f"{duration(self.elapsed)} so far"
        rows = [self.place, f"  {bar} {self.counts}", f"  {elapsed}, {self.step_left}"]
        if self.within:
            rows[1] += f", {self.within}"
        if self.run and len(rows[2]) + len(self.run) + 2 <= width:
            rows[2] += f"; {self.run}"
        elif self.run:
            rows.append(f"  {self.run}")
        return [_fitted(row, width) for row in rows]


def _fitted(row: str, width: int) -> str:
    return row if len(row) <= width else f"{row[: max(0, width - 1)]}…"


@contextmanager
def live(views: Callable[[], list[View]]) -> Iterator[None]:
    """Returns a context that shows the views in the terminal."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    class Rows:
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            del console
            rows = [row for view in views() for row in view.rows(options.max_width)]
            yield Text("\n".join(rows), no_wrap=True)

    with Live(Rows(), console=Console(stderr=True), transient=True, refresh_per_second=2):
        yield


def interval(age: float) -> float:
    """Returns the seconds between two lines about a step that has been in progress for `age` seconds."""
    return next((each for until, each in INTERVALS if age < until), LATER_INTERVAL)


@contextmanager
def lines_now_and_then(view: Callable[[], View], say: Callable[[str], None]) -> Iterator[None]:
    """Returns a context that prints a line at its start, and further lines at growing intervals."""
    first, ended = view(), threading.Event()
    say(f"{first.place}: {first.counts} done, working")

    def follow() -> None:
        last = time.monotonic()
        while not ended.wait(TICK_SECONDS):
            now = view()
            if time.monotonic() - last >= interval(now.elapsed) and now.done < now.total:
                last = time.monotonic()
                say(now.line())

    thread = threading.Thread(target=follow, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
