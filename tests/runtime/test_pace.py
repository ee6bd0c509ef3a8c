"""Estimates of the remaining time, against closed forms on a simulated clock."""

from typing import NoReturn, cast

import pytest
import tiny

import dgflow as dg
from dgflow.runtime.pace import LATE, Pace, Timings
from dgflow.runtime.progress_text import View, interval
from dgflow.specs.graph import graph
from dgflow.specs.step import Step


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def work(pace: Pace, clock: Clock, until: float, *, each: float, workers: int) -> None:
    """Simulates parts of `each` seconds by that many workers that started together, until that time."""
    pace.workers = workers
    begin = clock.now
    while clock.now + each <= begin + until:
        clock.now += each
        for _ in range(min(workers, pace.total - pace.done)):
            pace.finished(1, each)
    clock.now = begin + until


def test_nothing_is_promised_before_a_part_is_done(clock):
    pace = Pace(10, clock=clock)
    clock.now += 500
    assert pace.left() is None


@pytest.mark.parametrize("each", [0.5, 45.0, 7_200.0])
@pytest.mark.parametrize(("total", "workers"), [(10, 1), (10, 4), (50, 8), (3, 8)])
def test_the_time_left_is_exact_for_equal_parts_however_long_they_take(clock, each, total, workers):
    """The makespan of equal parts: the number of rounds of all workers, times the seconds per part."""
    pace, rounds = Pace(total, clock=clock), -(-total // workers)
    for share in (1.0, 0.25, 0.5):  # after one round, then at a quarter and at three quarters of the next
        work(pace, clock, share * each, each=each, workers=workers)
        passed = 1.0 if share == 1.0 else 1.25 if share == 0.25 else 1.75
        assert pace.left() == pytest.approx(max(0.0, rounds - passed) * each if rounds > 1 else 0.0)


def test_workers_that_are_staggered_end_one_after_another(clock):
    pace = Pace(5, clock=clock)  # two workers, 10 s per part, the second 4 s behind the first
    pace.workers = 2
    clock.now += 10
    pace.finished(1, 10.0)
    clock.now += 4
    pace.finished(1, 10.0)
    # In flight: ends in 6 s and in 10 s; the last part then follows the first of them.
    assert pace.left() == pytest.approx(6 + 10)


def test_the_start_of_the_workers_is_no_part_of_the_pace(clock):
    pace = Pace(3, clock=clock)
    clock.now += 300 + 60  # five minutes until a worker was ready
    pace.finished(1, 60.0)
    assert pace.left() == pytest.approx(120)


def test_a_part_that_is_overdue_is_never_said_to_be_almost_done(clock):
    """An earlier estimate stayed at 1 s for over a minute with parts like these."""
    pace = Pace(2, 1, earlier=[60.0], clock=clock)
    for late in (61.0, 90.0, 600.0):
        clock.now = 1_000.0 + late
        assert (pace.left() or 0.0) >= LATE * late


def test_parts_of_an_earlier_run_give_an_estimate_at_once_and_own_ones_replace_it(clock):
    pace = Pace(10, 4, earlier=[30.0, 50.0], clock=clock)
    assert pace.left() == pytest.approx(6 * 40)
    clock.now += 20
    pace.finished(1, 20.0)  # a faster machine
    assert pace.left() == pytest.approx(5 * 20)


def test_what_somebody_else_had_made_tells_nothing(clock):
    pace = Pace(10, clock=clock)
    pace.finished(1, 0.0)
    assert pace.left() is None and pace.done == 1


def test_commits_that_take_longer_than_the_work_set_the_pace(clock):
    pace = Pace(20, clock=clock)
    for _ in range(5):
        clock.now += 3
        pace.finished(1, 1.0)  # a second of work, and two until it is stored
    assert pace.left() == pytest.approx(15 * 3)


def test_steps_within_an_epoch_give_the_first_estimate_of_a_training(clock):
    pace = Pace(4, clock=clock)
    clock.now += 20 + 30  # the start of the processes, and 30 s of the epoch
    pace.within(0.25, 30.0)
    assert pace.left() == pytest.approx(90 + 3 * 120)
    clock.now += 90
    pace.finished()
    assert pace.left() == pytest.approx(3 * 120)


@pytest.fixture
def nodes(tmp_path):
    return graph(tiny.workflow(str(tmp_path / "images.npz")))


def test_a_step_like_one_that_was_timed_takes_as_long_for_the_same_work(nodes):
    steps = {node.step.title: node for node in nodes}
    fakes, plain = steps["generate seed 1"], steps["generate seed 5"]
    timings = Timings()
    assert timings.rest([plain], 2) == (0.0, 1)
    timings.add(fakes.step, 6.0)
    assert timings.expect(plain.step) == pytest.approx(6.0)  # the same network and sampler
    assert timings.rest([plain], 2) == (pytest.approx(2 * 6.0), 0)  # 4 shards, 2 workers
    twice = fakes.step.model_copy(update={"shard_size": 2 * fakes.step.shard_size})
    assert timings.expect(twice) == pytest.approx(12.0)


def test_a_guided_step_is_not_timed_by_an_unguided_one(nodes):
    steps = {node.step.title: node for node in nodes}
    timings = Timings()
    timings.add(steps["generate seed 1"].step, 6.0)
    assert timings.rest([steps["generate seed 5, guided by discriminator"]], 2) == (0.0, 1)


def test_the_receipts_of_a_step_that_is_reused_are_read_only_where_a_like_one_follows(nodes):
    steps, read = {node.step.title: node for node in nodes}, []
    timings = Timings()
    for title in ("generate seed 1", "train-score"):
        timings.remember(steps[title].step, lambda title=title: read.append(title) or [3.0, 5.0])
    assert timings.expect(steps["generate seed 5"].step) == pytest.approx(4.0)
    assert timings.expect(steps["generate seed 5"].step) == pytest.approx(4.0)
    assert read == ["generate seed 1"]


def test_a_step_is_asked_for_its_work_once_however_often_the_time_left_is_estimated(nodes, monkeypatch):
    """Counting guided samples runs their sampler: with hundreds of arms that took longer than sampling."""
    asked, whole = [], dg.Generate.work
    monkeypatch.setattr(dg.Generate, "work", lambda step, amount: asked.append(step) or whole(step, amount))
    timings, generated = Timings(), [node for node in nodes if node.step.kind == "generate"]
    for node in generated:
        timings.rest(nodes, 2)
        timings.add(node.step, 6.0)
    assert len(asked) == len({step.fingerprint for step in asked}) == len(generated)


def view(**fields) -> View:
    known = {
        "title": "generate seed 5, guided by its null class and discriminator [0:50000]",
        "number": 7,
        "of": 29,
    }
    known |= {"unit": "shards", "done": 3, "total": 50, "elapsed": 750.0, "left": 250.0}
    return View(**(known | fields))


def test_the_time_left_of_the_run_names_the_steps_that_nobody_has_timed():
    assert view(rest=3600.0).run == "run: about 1 h 04 min left"
    assert view(rest=3600.0, untimed=3).run == "run: about 1 h 04 min left + 3 steps not yet timed"
    assert view(left=None, untimed=1).run == "run: 1 step not yet timed"
    assert view(left=None).step_left == "no estimate yet"
    assert view(number=29).run == ""  # the last step is the whole run


def test_a_line_of_a_log_has_the_place_in_the_run_and_an_epoch_its_steps_and_loss():
    note = {"step": 120, "steps": 400, "loss": 0.123456}
    line = view(title="train-score", unit="epochs", done=2, total=10, rest=60.0, note=note).line()
    assert line == (
        "step 7 of 29, train-score: 2 of 10 epochs (step 120 of 400, loss 0.1235), 12 min 30 s so far, about "
        "4 min 10 s left; run: about 5 min 10 s left"
    )


@pytest.mark.parametrize("width", [40, 80, 200])
def test_rows_fit_the_terminal_and_keep_their_numbers_at_eighty_columns(width):
    rows = view(rest=3600.0, untimed=3).rows(width)
    assert all(len(row) <= width for row in rows)
    if width >= 80:
        assert rows[0].startswith("step 7 of 29, generate seed 5")
        assert "3 of 50 shards" in rows[1] and "4 min 10 s left" in rows[2]
        assert rows[-1].endswith("run: about 1 h 04 min left + 3 steps not yet timed")


def test_lines_of_a_log_come_less_often_as_a_step_lasts():
    assert [interval(age) for age in (0, 119, 121, 3599, 3601)] == [15, 15, 60, 60, 300]
    day, at, lines = 86_400.0, 0.0, 0
    while (at := at + interval(at)) < day:
        lines += 1
    assert lines < 400


def test_a_step_that_is_reused_is_not_asked_for_its_work_before_a_time_is_wanted():
    """Counting the work of guided samples needs torch, which a run that only reuses need not load."""

    class Reused:
        kind = fingerprint = "reused"

        def work(self, _: int) -> NoReturn:
            raise AssertionError("asked")

    timings, step = Timings(), cast(Step, Reused())
    timings.remember(step, list)
    with pytest.raises(AssertionError, match="asked"):
        timings.expect(step)
