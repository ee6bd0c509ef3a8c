"""The timeline: bars at their times, pauses cut out, steps by arm."""

import pytest

from dgflow.report.summary import summarise
from dgflow.report.timeline import Clock, timeline


def test_bars_stand_at_their_times_without_the_pauses():
    first, second = [(100.0, 110.0), (105.0, 130.0)], [(1000.0, 1070.0)]
    clock = Clock.of([*first, *second])
    assert clock.busy == 100 and clock.paused == 870
    assert clock.shares(first) == [{"left": 0.0, "width": 30.0}]
    assert clock.shares(second) == [{"left": 30.0, "width": 70.0}]
    assert clock.words(second) == "from 30 s to 1 min 40 s"


def test_short_waits_stay_and_bars_apart_stay_apart():
    spans = [(0.0, 40.0), (41.0, 81.0), (85.0, 100.0)]
    clock = Clock.of(spans)
    assert clock.busy == 100 and clock.paused == 0
    assert [each["left"] for each in clock.shares(spans)] == [0.0, 41.0, 85.0]


def test_nothing_made_gives_no_bars():
    clock = Clock.of([])
    assert clock.busy == 0 and clock.shares([]) == [] and clock.words([]) == "not started"


def test_every_step_stands_once_in_the_group_of_its_arm(finished):
    summary = summarise(*finished)
    found = timeline(summary)
    assert [group["title"] for group in found["groups"]] == [
        "for all arms",
        "arm unguided",
        "arm guided",
        "floor",
        "result",
    ]
    rows = [row for group in found["groups"] for row in group["rows"]]
    assert len(rows) == len(summary.plans)
    for row in rows:
        assert row["spans"] and all(0 <= span["left"] <= 100 for span in row["spans"])
        assert sum(span["width"] for span in row["spans"]) <= 100.01
    assert sum(row.evaluations for row in summary.steps) == int(
        found["total"]["evaluations"].replace(",", "")
    )
    assert found["total"]["elapsed"] and pytest.approx(100, abs=0.02) == max(
        span["left"] + span["width"] for row in rows for span in row["spans"]
    )
