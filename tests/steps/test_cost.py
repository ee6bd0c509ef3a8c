"""Cost: operations of training and of sampling, by arm, against hand counts and published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from inprocess import complete
from steps.shipped import built

import dgflow as dg
from dgflow.diffusion.selection_specs import SelectionSpec
from dgflow.engine.plan import plan
from dgflow.estimate.exercise import count
from dgflow.report.arms import SHARED, named
from dgflow.specs.bound import Bound
from dgflow.specs.figures import Table
from dgflow.specs.step import NetworkStep, Slice, Use, here
from dgflow.store.memory import MemoryStore
from dgflow.store.open import open_store

IMAGES = Path("images.npz")


def content(**arms: tuple[Slice, ...]) -> bytes:
    return dg.Cost(arms=arms).compute(Bound(), here, MemoryStore("cost"))


def costs(**arms: tuple[Slice, ...]) -> Mapping[str, Mapping[str, Any]]:
    return dg.Cost(arms=arms).compared(content(**arms))


def flop(step: NetworkStep, use: Use) -> float:
    with torch.device("meta"):
        return count(step, step.fresh(), use).total


def guided(training: dg.TrainDiscriminator) -> dg.Generate:
    guide = dg.DiscriminatorGuidance(discriminator=training.last())
    return dg.Generate(score=tiny.score(IMAGES).last(), sampler=dg.Heun(steps=3), seed=5, guidance=(guide,))


def test_sampling_takes_the_published_operations_of_a_network_per_evaluation():
    """118.64 G multiply-adds (Peebles & Xie 2023, table 4), twice per step for classifier-free guidance."""
    free = dg.ClassifierFree(scale=1.5)
    step = dg.Generate(score=dg.official("dit-xl-2-256"), sampler=dg.DDPM(respacing="4"), guidance=(free,))
    found = costs(dit=(step[:10],))["dit"]
    assert found["sampling"]["mean"] == pytest.approx(2 * 4 * 2 * 118.64, rel=1e-3)
    assert found["training"]["mean"] == 0.0  # not trained here


def test_training_takes_all_epochs_of_every_network_and_the_samples_that_it_learns_from():
    score, training = tiny.score(IMAGES), tiny.discriminator(IMAGES)
    expected = [
        # 2 epochs of 48 images, and 16 held-out ones at 4 levels.
        2 * 48 * flop(score, "train") + 2 * 64 * flop(score, "forward"),
        # 64 fakes of 5 evaluations each.
        64 * 5 * flop(score, "forward"),
        # 2 epochs of 48 real and 48 fake images, and 16 pairs at 8 levels.
        2 * 96 * flop(training, "train") + 2 * 256 * flop(training, "forward"),
    ]
    arms = {"guided": (guided(training)[:30],), "plain": (tiny.fakes(IMAGES, seed=5)[:30],)}
    found = costs(**arms)
    assert found["guided"]["training"]["mean"] == pytest.approx(sum(expected) / 1e12)
    assert found["plain"]["training"]["mean"] == pytest.approx(expected[0] / 1e12)
    assert found["plain"]["sampling"]["mean"] == pytest.approx(5 * flop(score, "forward") / 1e9)
    # The discriminator guides only in the first order, and not at the last level, 0.002.
    more = found["guided"]["sampling"]["mean"] - found["plain"]["sampling"]["mean"]
    assert more == pytest.approx(2 * flop(training, "gradient") / 1e9)
    (table,) = dg.Cost(arms=arms).figures(content(**arms))
    assert isinstance(table, Table)
    assert [row[2] for row in table.rows] == ["all", "guided", "guided"]


def test_one_training_with_two_numbers_of_epochs_counts_each_arm_its_own():
    short, long = (tiny.discriminator(IMAGES, epochs=number) for number in (1, 3))
    found = costs(short=(guided(short)[:8],), long=(guided(long)[:8],))
    per_epoch = 96 * flop(short, "train") + 256 * flop(short, "forward")
    difference = found["long"]["training"]["mean"] - found["short"]["training"]["mean"]
    assert difference == pytest.approx(2 * per_epoch / 1e12)


def test_it_is_made_anew_for_more_epochs_even_where_the_same_one_is_used(tmp_path):
    images, store = tiny.write_images(tmp_path / "images.npz"), open_store(str(tmp_path / "root"))
    found = []
    for epochs in (1, 2):
        first = dg.Generate(score=tiny.score(images, epochs).epoch(1), sampler=dg.Heun(steps=2))
        step = dg.Cost(arms={"first": (first[:8],)})
        complete(step, store)
        plans = plan(step, store)
        assert plans[-1].complete and plans[-1].bound is not None
        steps = plans[-1].bound.digests
        found.append((tuple(steps), steps["arms.first.0"]))
    assert found[0] != found[1]


def test_it_stands_in_the_table_and_its_step_is_for_all_arms():
    evaluation = tiny.workflow(str(IMAGES))
    with_cost = evaluation.model_copy(update={"beside": (dg.Cost(arms=evaluation.arms).result(),)})
    assert [metric.heading for metric in with_cost.columns.values()][-2:] == [
        "training TFLOP",
        "GFLOP per sample",
    ]
    plans = plan(with_cost, MemoryStore("beside"))
    places = {plans[place.number].step.kind: place.group for place in named(plans)}
    assert places["cost"] == SHARED and places["train-discriminator"] == "arm guided"


class Counted(SelectionSpec):
    """A selection that draws nothing."""

    def select(self, run: Any, start: int, stop: int, inputs: Bound) -> Any:
        raise NotImplementedError

    def evaluations(self, nfe: float) -> tuple[float, float]:
        return 3 * nfe, 4.0


def test_where_a_selection_decides_the_evaluations_are_those_that_the_samples_record():
    training = tiny.discriminator(IMAGES)
    selection = Counted(discriminator=training.last())
    steps = [guided(training).model_copy(update={"selection": selection, "seed": seed}) for seed in (5, 6)]
    arm = tuple(step[:2] for step in steps)
    recorded = {
        "score_evaluations": np.array([[7, 9], [8, 10]], np.int32),
        "guide_evaluations": np.array([[[3], [4]], [[3], [3]]], np.int32),
        "discriminator_evaluations": np.array([[5, 6], [5, 5]], np.int32),
    }

    def rows(name: str, columns: Sequence[str]) -> dict[str, np.ndarray]:
        return {column: recorded[column][int(name.removeprefix("selected.arm."))] for column in columns}

    cost = dg.Cost(arms={"arm": arm})
    assert {name for name in cost.inputs() if name.startswith("selected")} == {
        "selected.arm.0",
        "selected.arm.1",
    }
    reads: Any = SimpleNamespace(rows=rows)
    found = cost.compared(cost.compute(reads, here, MemoryStore("cost")))["arm"]["sampling"]["per_seed"]
    score = flop(tiny.score(IMAGES), "forward")
    looked, guide = flop(training, "forward"), flop(training, "gradient")
    expected = [8.0 * score + 3.5 * guide + 5.5 * looked, 9.0 * score + 3.0 * guide + 5.0 * looked]
    assert found == pytest.approx([each / 1e9 for each in expected])


def test_selected_samples_behind_another_step_count_in_proportion_to_the_arm_s_rows():
    drawn = guided(tiny.discriminator(IMAGES))
    selection = Counted(discriminator=tiny.discriminator(IMAGES).last())
    selected = drawn.model_copy(update={"guidance": (), "selection": selection})[:4]
    translated = dg.Translate(source=selected, score=drawn.score, sampler=drawn.sampler, start=0.5)
    arms = {
        "translated": (translated[:2],),
        "chosen": (dg.OfClasses(images=selected, classes=(0,), count=2)[:2],),
    }
    cost = dg.Cost(arms=arms)
    assert {name: each for name, each in cost.inputs().items() if name.startswith("selected")} == {
        "selected.translated.0": selected,
        "selected.chosen.0": selected,
    }
    recorded = {
        "score_evaluations": np.array([5, 10, 5, 12]),
        "discriminator_evaluations": np.array([2, 3, 2, 3]),
    }
    reads: Any = SimpleNamespace(rows=lambda name, columns: {column: recorded[column] for column in columns})
    found = cost.compared(cost.compute(reads, here, MemoryStore("cost")))
    score, looked = flop(tiny.score(IMAGES), "forward"), flop(tiny.discriminator(IMAGES), "forward")
    first = 8.0 * score + 2.5 * looked
    then = translated.sampler.nfe_from(0.5, "tail") * score
    assert found["chosen"]["sampling"]["mean"] == pytest.approx(first / 1e9)
    assert found["translated"]["sampling"]["mean"] == pytest.approx((first + then) / 1e9)


def test_measurements_behind_an_arm_count_with_its_trainings():
    training = tiny.discriminator(IMAGES)
    step = tiny.fakes(IMAGES, seed=5)
    pilot = dg.RejectionThresholds(samples=step[:10], discriminator=training.last())
    rejection = dg.Rejection(discriminator=training.last(), thresholds=pilot.result())
    arms = {
        name: (step.model_copy(update={"selection": selection})[:2],)
        for name, selection in (("counted", Counted(discriminator=training.last())), ("rejection", rejection))
    }
    recorded = {"score_evaluations": np.ones(2), "discriminator_evaluations": np.ones(2)}
    reads: Any = SimpleNamespace(rows=lambda name, columns: recorded)
    cost = dg.Cost(arms=arms)
    found = cost.compared(cost.compute(reads, here, MemoryStore("cost")))
    # As in its plan: 10 paths of 5 evaluations, with a log-ratio at each of 4 positions.
    score, looked = flop(tiny.score(IMAGES), "forward"), flop(training, "forward")
    more = found["rejection"]["training"]["mean"] - found["counted"]["training"]["mean"]
    assert more == pytest.approx(10 * (5 * score + 4 * looked) / 1e12)


def test_arms_without_samples_are_refused():
    with pytest.raises(ValueError, match="expected one or more arms with a slice of samples each"):
        dg.Cost(arms={"none": ()})


def test_an_arm_of_slices_that_cost_otherwise_is_refused():
    short = guided(tiny.discriminator(IMAGES))
    training = tiny.discriminator(IMAGES)
    long = guided(training.model_copy(update={"epochs": training.epochs + 2}))
    other = short.model_copy(update={"sampler": dg.Heun(steps=4), "seed": 6})
    two, four = (
        short.model_copy(update={"selection": dg.BestOf(discriminator=training.last(), count=count)})
        for count in (2, 4)
    )
    chosen = [dg.OfClasses(images=each[:8], classes=(0,), count=2) for each in (two, four)]
    for first, second in ((short, long), (short, other), (short, two), (two, four), chosen):
        with pytest.raises(ValueError, match="arm 'guided': expected slices of the same trainings"):
            dg.Cost(arms={"guided": (first[:2], second[:2])})


@pytest.mark.slow
def test_the_arms_that_are_compared_on_digits_take_about_as_many_operations():
    evaluation: Any = built("digits-further")
    (cost,) = evaluation.beside
    found = cost.step.compared(cost.step.compute(Bound(), here, MemoryStore("cost")))
    base, *arms = (found[name]["training"]["mean"] for name in evaluation.arms)
    assert min(arms) > 8 * base and max(arms) < 1.05 * min(arms)
