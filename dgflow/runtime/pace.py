"""Estimates of the remaining time: of a step from the durations of its parts, and of a run from those of
similar steps.

The clock is a parameter, so tests simulate it. Without any measurement the estimate is None.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from dgflow.specs.graph import Node
from dgflow.specs.step import Step, Work

RECENT = 20  # durations in the mean, so that it reflects the current pace
ROUNDS = 4  # rounds of all workers over which the pace of commits is measured
LATE = 0.1  # share of its elapsed time that is added for a part that is overdue


class Pace:
    """The pace of one step: parts of equal size that `workers` build concurrently.

    `known` are the seconds of its parts that were built in earlier runs.
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        *,
        known: Sequence[float] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.done, self.workers = total, done, 1
        self.made = 0  # parts built in this run
        self._clock = clock
        self._began = clock()  # start of the parts in flight that did not wait for an earlier part
        self._seconds: deque[float] = deque(known, maxlen=RECENT)
        self._own = False  # True once durations of this run replace those of earlier runs
        self._ends: deque[float] = deque(maxlen=4096)

    def finished(self, count: int = 1, seconds: float | None = None) -> None:
        """Records that `count` parts are done, the last of them after `seconds` of work; with None, the time
        since the previous one counts."""
        now = self._clock()
        if not count:
            return
        self.done += count
        self.made += count
        if seconds is None:
            seconds = (now - (self._ends[-1] if self._ends else self._began)) / count
        if seconds > 0.0:  # else another process had built it
            if not self._own:
                self._own = True
                self._seconds.clear()
                self._began = max(self._began, now - seconds)  # the time before was the workers' start
            self._seconds.append(seconds)
        self._ends.append(now)

    def within(self, share: float, seconds: float) -> None:
        """Records that the only part in flight is done to this share, after `seconds` of work."""
        if 0.0 < share <= 1.0 and seconds > 0.0:
            start = self._clock() - seconds
            if self._ends:
                self._ends[-1] = max(self._ends[-1], start)
            else:
                self._began = start
            if not self._own:
                self._seconds.clear()
                self._seconds.append(seconds / share)

    @property
    def each(self) -> float | None:
        """The seconds of work per part, as far as known."""
        if not self._seconds:
            return None
        own, late = list(self._seconds), [age for age in self._ages() if age > max(self._seconds)]
        return max(fmean(own + late), self._between() or 0.0)

    def left(self) -> float | None:
        """Returns the seconds until the step is done; None while the duration of a part is unknown.

        The parts in flight have started when the last ones ended. Each ends when its time is over; its worker
        then takes the next open part, until none is left.
        """
        open_parts = self.total - self.done
        if open_parts <= 0:
            return 0.0
        if (each := self.each) is None:
            return None
        rests = sorted(each - age if age < each else LATE * age for age in self._ages())
        queued = open_parts - len(rests)
        rounds, place = divmod(queued - 1, len(rests))
        return rests[place] + (rounds + 1) * each if queued else rests[-1]

    def _ages(self) -> list[float]:
        """Returns the seconds since each of the parts in flight started."""
        now, number = self._clock(), max(1, min(self.workers, self.total - self.done))
        latest = list(self._ends)[-number:]
        return [now - start for start in latest + [self._began] * (number - len(latest))]

    def _between(self) -> float | None:
        """Returns the seconds of a worker between two commits; None before each worker has made two. It
        exceeds the work alone if commits, or the wait for data, take long."""
        span = min(len(self._ends) - 1, ROUNDS * self.workers)
        if span < 2 * self.workers:
            return None
        return self.workers * (self._ends[-1] - self._ends[-1 - span]) / span


class _Part(NamedTuple):
    """A part of a step.

    Args:
        kind: equal for steps whose parts take times proportional to their work: the same kind, with the same
            networks.
        work: the amount of work, to compare parts of one kind.
    """

    kind: object
    work: float


@dataclass
class Timings:
    """The durations of steps by what they evaluate: similar steps are estimated from completed ones."""

    _per_unit: dict[object, float] = field(default_factory=dict)  # seconds of work
    _unread: dict[object, tuple[Step, Callable[[], Sequence[float]]]] = field(default_factory=dict)
    # Steps whose work is not known yet
    _done: list[tuple[Step, Callable[[], Sequence[float]]]] = field(default_factory=list)
    _parts: dict[str, _Part] = field(default_factory=dict)  # by the step's fingerprint

    def add(self, step: Step, seconds: float) -> None:
        """Records that a part of a step takes so many seconds of work."""
        if seconds > 0:
            part = self._part(step)
            self._per_unit[part.kind] = seconds / part.work

    def remember(self, step: Step, read: Callable[[], Sequence[float]]) -> None:
        """Records that a step is done; `read` returns the seconds of some of its parts. It is called only
        when needed, and the work of the step is computed no earlier, so that a run that only reuses steps
        loads no torch."""
        self._done.append((step, read))

    def expect(self, step: Step) -> float | None:
        """Returns the seconds of work for a part; None if no similar step has been timed."""
        while self._done:
            done, read = self._done.pop(0)
            self._unread.setdefault(self._part(done).kind, (done, read))
        key, work = self._part(step)
        if key not in self._per_unit and key in self._unread:
            done, read = self._unread.pop(key)
            if seconds := read():
                self.add(done, fmean(seconds))
        return self._per_unit[key] * work if key in self._per_unit else None

    def rest(self, nodes: Sequence[Node], workers: int) -> tuple[float, int]:
        """Returns the seconds that these steps take with so many workers, and the number of steps without a
        timing."""
        total, untimed = 0.0, 0
        for node in nodes:
            parts = len(node.step.parts(node.slices))
            if (each := self.expect(node.step)) is None:
                untimed += 1
            else:
                rounds = -(-parts // workers) if node.step.folder == "shards" else parts
                total += each * rounds
        return total, untimed

    def _part(self, step: Step) -> _Part:
        """Returns the part of a step, computed once: counting evaluations may require a dry run of a
        sampler."""
        if step.fingerprint not in self._parts:
            amount = getattr(step, "shard_size", 1)
            works = step.work(amount)
            networks = tuple((_network(work), work.use, work.precision) for work in works)
            self._parts[step.fingerprint] = _Part(
                (step.kind, networks), works[0].times if works else float(amount)
            )
        return self._parts[step.fingerprint]


def _network(work: Work) -> object:
    return repr(getattr(work.network, "network", None)), repr(work.network.shape)
