"""Estimates the remaining time: of a step from the durations of its parts, and of a run from the durations of
similar steps.

The clock is a parameter, so tests can simulate it. Without any measurement the estimate is None.
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
LATE = 0.1  # an overdue part is expected to take this share of its elapsed time more


class Pace:
    """The pace of one step, whose parts have equal size and are built by `workers` concurrently.

    `earlier` are the seconds of parts of the step that were built in earlier runs.
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        *,
        earlier: Sequence[float] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.done, self.workers = total, done, 1
        self.made = 0  # parts built in this run
        self._clock = clock
        self._began = clock()  # start of each worker's first part
        self._seconds: deque[float] = deque(earlier, maxlen=RECENT)
        self._own = False  # True once `_seconds` has durations of this run instead of earlier ones
        self._ends: deque[float] = deque(maxlen=4096)

    def finished(self, count: int = 1, seconds: float | None = None) -> None:
        """Records that `count` more parts are done. `seconds` is the work of the last one; None takes the
        mean time since the previous record."""
        now = self._clock()
        if not count:
            return
        self.done += count
        self.made += count
        if seconds is None:
            seconds = (now - (self._ends[-1] if self._ends else self._began)) / count
        if seconds > 0.0:  # 0: another process had built it
            if not self._own:
                self._own = True
                self._seconds.clear()
                self._began = max(self._began, now - seconds)  # before that, the workers were starting
            self._seconds.append(seconds)
        self._ends.append(now)

    def within(self, share: float, seconds: float) -> None:
        """Records that a share (0 to 1) of the only part in progress is done, after `seconds` of work."""
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
        """The estimated seconds per part; None if unknown."""
        if not self._seconds:
            return None
        seconds, late = list(self._seconds), [age for age in self._ages() if age > max(self._seconds)]
        return max(fmean(seconds + late), self._between() or 0.0)

    def left(self) -> float | None:
        """Returns the estimated seconds until the step is done; None while the duration of a part is unknown.

        The estimate assumes that a part in progress started when its worker's previous part ended, that every
        part takes `each` seconds, and that a worker then takes the next open part.
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
        """Returns the seconds since the start of each part in progress."""
        now, number = self._clock(), max(1, min(self.workers, self.total - self.done))
        latest = list(self._ends)[-number:]
        return [now - start for start in latest + [self._began] * (number - len(latest))]

    def _between(self) -> float | None:
        """Returns a worker's mean seconds between two commits; None before two commits per worker. It exceeds
        the work itself if commits, or waiting for data, take long."""
        span = min(len(self._ends) - 1, ROUNDS * self.workers)
        if span < 2 * self.workers:
            return None
        return self.workers * (self._ends[-1] - self._ends[-1 - span]) / span


class _Part(NamedTuple):
    """The kind and the amount of the work of a part of a step.

    Args:
        kind: equal for steps of the same kind with the same networks. The durations of their parts are
            proportional to `work`.
        work: the amount of work, comparable within one kind.
    """

    kind: object
    work: float


@dataclass
class Timings:
    """The durations of completed steps, from which those of similar steps are estimated."""

    _per_unit: dict[object, float] = field(default_factory=dict)  # kind -> seconds per unit of work
    # kind -> completed step whose receipts have not been read
    _unread: dict[object, tuple[Step, Callable[[], Sequence[float]]]] = field(default_factory=dict)
    # completed steps whose kind has not been computed
    _done: list[tuple[Step, Callable[[], Sequence[float]]]] = field(default_factory=list)
    _parts: dict[str, _Part] = field(default_factory=dict)  # by the step's fingerprint

    def add(self, step: Step, seconds: float) -> None:
        """Records the seconds of work per part of a step."""
        if seconds > 0:
            part = self._part(step)
            self._per_unit[part.kind] = seconds / part.work

    def remember(self, step: Step, read: Callable[[], Sequence[float]]) -> None:
        """Records that a step is complete; `read` returns the seconds of some of its parts.

        `read` is called only when needed, and the work of the step is computed only then. So a run that only
        reuses steps does not load torch.
        """
        self._done.append((step, read))

    def expect(self, step: Step) -> float | None:
        """Returns the expected seconds of work per part; None if no similar step has been timed."""
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
        """Returns the expected seconds of the timed steps among `nodes` with this number of workers, and the
        number of the other steps."""
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
        """Returns the kind and work of a step's parts. Cached, because counting evaluations may require a dry
        run of a sampler."""
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
