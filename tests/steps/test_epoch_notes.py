"""The step and the loss within an epoch, in the note of the attempt: at long intervals, on a simulated
clock."""

import pytest
import tiny
from inprocess import complete

from dgflow.engine.plan import plan
from dgflow.engine.root import Root
from dgflow.runtime.training import notes
from dgflow.runtime.training.notes import (
    FIRST_SECONDS,
    NOTE_SECONDS,
    EpochNotes,
    seconds_within,
    within_epoch,
)
from dgflow.store.memory import MemoryStore


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_epoch_of_an_hour_writes_a_note_every_quarter_of_a_minute():
    clock, written = Clock(), []
    steps = EpochNotes(written.append, 3_600, clock)
    for step in range(1, 3_601):
        clock.now += 1.0
        steps.step(step, 2.0 * 0.5 * step, weight=2.0)  # the losses are 0.5; the sum is weighted
    assert len(written) == 1 + (3_600 - FIRST_SECONDS) // NOTE_SECONDS
    first = written[0]
    assert (first["step"], first["steps"], first["loss"]) == (FIRST_SECONDS, 3_600, pytest.approx(0.5))


def test_an_epoch_of_seconds_writes_none_and_neither_does_another_worker():
    clock, written = Clock(), []
    for steps in (EpochNotes(written.append, 100, clock), EpochNotes(None, 100, clock)):
        for step in range(1, 101):
            clock.now += 0.04
            steps.step(step, 1.0)
        clock.now += 100
    EpochNotes(None, 100, clock).step(1, 1.0)
    assert written == []


def test_a_loss_that_is_not_finite_is_left_out():
    clock, written = Clock(), []
    steps = EpochNotes(written.append, 10, clock)
    clock.now += 60
    steps.step(3, float("nan"))
    assert "loss" not in written[0] and within_epoch(written[0]) == "step 3 of 10"
    assert (
        within_epoch({"step": 1_200, "steps": 4_000, "loss": 0.123456}) == "step 1,200 of 4,000, loss 0.1235"
    )


def test_the_age_of_an_epoch_is_by_the_clock_of_its_own_host():
    assert seconds_within({"started": 86_400.0, "updated": 86_430.0}) == 30.0
    assert seconds_within({"started": 1.0}) == 0.0 and seconds_within({}) == 0.0


def test_a_training_notes_its_steps_and_its_loss(tmp_path, monkeypatch):
    """Here every step is noted; the last note's loss equals that of the epoch's receipt."""
    monkeypatch.setattr(notes, "FIRST_SECONDS", -1.0)
    monkeypatch.setattr(notes, "NOTE_SECONDS", -1.0)
    score, store = (
        tiny.score(tiny.write_images(tmp_path / "images.npz"), epochs=1),
        MemoryStore("epoch-notes"),
    )
    complete(score, store)
    (state,) = [each for each in plan(score, store) if each.step is score]
    steps = Root(store).step_store(score)
    note = steps.attempt("epochs", 1)
    assert (note["step"], note["steps"]) == (score.steps_per_epoch, score.steps_per_epoch)
    assert note["loss"] == pytest.approx(steps.receipt(state.done[1]).metrics["train_loss"])
    assert steps.attempt("epochs", 2) == {}
