"""Time and cost by step as a timeline: the times in which the parts of each step were made, grouped by arm.

Long times in which no worker was active are cut out, so that runs on different days are adjacent.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from dgflow.report.arms import END, named
from dgflow.report.layout import duration, parts, size
from dgflow.report.own_receipts import own_receipts
from dgflow.report.summary import StepRow, Summary
from dgflow.store.receipts import Receipt

PAUSE = 0.05  # share of the active time; longer pauses are cut out
JOIN = 0.003  # share of the active time; spans with a smaller gap are drawn as one

Span = tuple[float, float]


def timeline(summary: Summary) -> dict[str, Any]:
    """Returns `groups` of rows, a `total`, and the length of the `paused` time as text, empty if none is cut
    out. The `spans` of a row's bar are in percent of the whole."""
    spans = [_spans(own_receipts(summary.receipts, plan.step)) for plan in summary.plans]
    clock = Clock.of(span for own in spans for span in own)
    places = named(summary.plans)
    names = {each.group for each in places}
    groups = [
        {
            "title": {END: "result" if len(names) > 1 else ""}.get(group, group),
            "rows": [
                _row(each.label, summary.steps[each.number], spans[each.number], clock) for each in members
            ],
        }
        for group, members in groupby(places, key=lambda each: each.group)
    ]
    evaluations = sum(row.evaluations for row in summary.steps)
    total = {
        "work": duration(sum(row.seconds for row in summary.steps)),
        "elapsed": duration(clock.busy),
        "bytes": size(sum(row.bytes for row in summary.steps)),
        "evaluations": f"{evaluations:,}" if evaluations else "",
    }
    return {"groups": groups, "total": total, "paused": duration(clock.paused) if clock.paused else ""}


def _spans(receipts: Sequence[Receipt]) -> list[Span]:
    """Returns the start and end of the work on each part, in order."""
    return sorted((each.created - each.seconds, each.created) for each in receipts)


def _row(label: str, row: StepRow, spans: Sequence[Span], clock: Clock) -> dict[str, Any]:
    done = f"{row.done:,} of {parts(row.wanted, row.unit)}"
    return {
        "title": label,
        "done": parts(row.done, row.unit) if row.done == row.wanted else done,
        "spans": clock.shares(spans),
        "when": clock.words(spans),
        "work": duration(row.seconds),
        "elapsed": duration(row.elapsed),
        "bytes": size(row.bytes),
        "evaluations": f"{row.evaluations:,}" if row.evaluations else "",
    }


class Clock:
    """A clock that counts the seconds since the first start without long pauses."""

    def __init__(self, at_work: Sequence[Span]) -> None:
        """Creates the clock of `at_work`, the times in which any part was made, in order and disjoint."""
        total = sum(stop - start for start, stop in at_work)
        self._shifts: list[Span] = []  # (time, total length of the pauses before it)
        self.paused, last = 0.0, at_work[0][0] if at_work else 0.0
        for start, stop in at_work:
            if start - last > PAUSE * total:
                self.paused += start - last
            self._shifts.append((start, self.paused))
            last = stop
        self._first = at_work[0][0] if at_work else 0.0
        self.busy = last - self._first - self.paused

    @classmethod
    def of(cls, spans: Iterable[Span]) -> Clock:
        return cls(_joined(sorted(spans), 0.0))

    def at(self, time: float) -> float:
        """Returns the clock's reading at a time at which any part was made."""
        place = bisect_right(self._shifts, time, key=lambda each: each[0])
        return time - self._first - (self._shifts[place - 1][1] if place else 0.0)

    def shares(self, spans: Sequence[Span]) -> list[Mapping[str, float]]:
        """Returns the left edge and the width of each bar, in percent of the whole."""
        whole = self.busy or 1.0
        placed = _joined([(self.at(start), self.at(stop)) for start, stop in spans], JOIN * whole)
        return [
            {"left": round(100 * start / whole, 2), "width": round(100 * (stop - start) / whole, 2)}
            for start, stop in placed
        ]

    def words(self, spans: Sequence[Span]) -> str:
        """Formats the first start and the last end, such as `from 3 min to 7 min`."""
        if not spans:
            return "not started"
        first, last = self.at(spans[0][0]), max(self.at(stop) for _, stop in spans)
        return f"from {duration(max(first, 0.0))} to {duration(last)}"


def _joined(spans: Sequence[Span], gap: float) -> list[Span]:
    """Returns the spans, which must be in order, merged where they overlap or their gap is at most `gap`."""
    out: list[Span] = []
    for start, stop in spans:
        if out and start - out[-1][1] <= gap:
            out[-1] = (out[-1][0], max(out[-1][1], stop))
        else:
            out.append((start, stop))
    return out
