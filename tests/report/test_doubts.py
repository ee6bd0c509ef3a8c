"""Warnings from receipts: saturated samples, networks at chance, slow workers."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
from report.fake_root import recipe, write_source

from dgflow.report.doubts import doubts
from dgflow.specs.graph import graph
from dgflow.specs.train_step import TrainStep

GOOD = {"held_out_loss": 0.5, "held_out_accuracy": 0.9}


@pytest.fixture
def warnings(tmp_path):
    """Returns the warnings of the digits-like recipe with these metrics in all receipts of a kind of step."""
    steps = [node.step for node in graph(recipe(source=write_source(tmp_path / "digits.npz")))]

    def of(**metrics: dict[str, Any]) -> list[str]:
        plans: list[Any] = [SimpleNamespace(step=step) for step in steps]
        receipts: dict[str, list[Any]] = {}
        for step in steps:
            own = metrics.get(step.kind.replace("-", "_"), GOOD if isinstance(step, TrainStep) else {})
            numbers = step.parts(()) or [0, 1]
            receipts[step.name] = [
                SimpleNamespace(number=number, start=100 * number, stop=100 * number + 100, metrics=own)
                for number in numbers
            ]
        return doubts(plans, receipts)

    return of


def test_networks_that_learned_and_images_are_not_warned_of(warnings):
    assert warnings() == []
    assert warnings(generate={"saturated": 0}) == []


@pytest.mark.parametrize(("loss", "warned"), [(math.log(2), 1), (0.72, 1), (math.log(2) - 0.01, 0)])
def test_a_discriminator_at_log_two_is_told(warnings, loss, warned):
    lines = warnings(train_discriminator={"held_out_loss": loss, "held_out_accuracy": 0.5})
    assert len(lines) == warned
    assert all(f"held-out loss {loss:.4f} is that of chance, log 2 = 0.6931" in line for line in lines)


# 15 held-out images: one standard error of chance is sqrt(0.1 * 0.9 / 15) = 0.077.
@pytest.mark.parametrize(("accuracy", "warned"), [(0.1, 1), (0.33, 1), (0.34, 0)])
def test_a_judge_at_chance_is_told(warnings, accuracy, warned):
    lines = warnings(train_classifier={"held_out_loss": 2.3, "held_out_accuracy": accuracy})
    assert len(lines) == warned
    assert all("is near that of chance, 0.100 for 10 classes" in line for line in lines)


@pytest.mark.parametrize(("count", "warned"), [(0, False), (4, False), (5, True), (100, True)])
def test_saturated_samples_are_told_by_step_from_one_in_twenty_on(warnings, count, warned):
    lines = warnings(generate={"saturated": count})
    named = f"{2 * count} of 200 samples are saturated"
    assert bool(lines) == warned and all(named in line for line in lines)


def test_a_workers_warning_is_told_once_for_a_step(warnings):
    (line,) = warnings(train_score=GOOD | {"warnings": ["slow"]})
    assert line == "train-score: slow"
