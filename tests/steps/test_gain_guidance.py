"""Weights and windows that Gain chooses: their values, the steps that they make stale, and refusals."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from inprocess import complete
from steps.identities import DISC, FAKES, REAL, SCORE
from tiny import discriminator, score, write_images

from dgflow import DiscriminatorGuidance, Generate, Heun, Switch, TrainDiscriminator
from dgflow.diffusion.gain_curve import GainCurve, LevelGain, MeasuredGain
from dgflow.diffusion.times import sigma_from_tau, tau_from_sigma
from dgflow.engine.plan import plan
from dgflow.engine.root import Root
from dgflow.engine.shard_work import shard_work
from dgflow.report.doubts import choice_doubts
from dgflow.report.plan_text import plan_table
from dgflow.specs.bound import Bound, BoundRows, BoundWeights
from dgflow.specs.step import Weights
from dgflow.store.open import open_store

MEASURED = TrainDiscriminator(real=REAL[:100], fake=FAKES[:100], batch_size=8, gain_of=SCORE.last())


def guided(weights: Weights, scored: Weights, **fields) -> Generate:
    term = DiscriminatorGuidance(discriminator=weights, **fields)
    return Generate(score=scored, sampler=Heun(steps=4), guidance=(term,), seed=5, shard_size=8)


def gain_of(*levels: tuple[float, float], error: float = 0.01) -> MeasuredGain:
    """Returns Gain from agreement and energy of levels of a factor of 10 from sigma = 0.1 on."""
    covariance = (error**2, 0.0, error**2)
    parts = [
        LevelGain(10.0 ** (number - 1), 10.0**number, GainCurve(*level, covariance))
        for number, level in enumerate(levels)
    ]
    sums = (math.fsum(level[0] for level in levels), math.fsum(level[1] for level in levels))
    return MeasuredGain(100, GainCurve(*sums, covariance), tuple(parts))


def term(**fields) -> DiscriminatorGuidance:
    return DiscriminatorGuidance(discriminator=MEASURED.best("gain"), **fields)


def test_both_orders_take_the_chosen_weight_and_the_window_its_ends_in_sigma():
    asked = term(weight="gain", second_order_weight="gain", tau_min="gain", tau_max="gain")
    measured = gain_of((-0.1, 0.1), (0.3, 0.4), (0.3, 0.2), (0.0, 0.1))
    settings = asked.settings(asked.chosen(measured))
    assert settings.weight == settings.second_order_weight == 1.0  # (0.3 + 0.3) / (0.4 + 0.2)
    assert settings.tau_min is not None
    assert sigma_from_tau(settings.tau_min) == pytest.approx(1.0)
    assert sigma_from_tau(settings.tau_max) == pytest.approx(100.0)


def test_one_end_alone_leaves_the_other_and_a_given_weight():
    asked = term(weight=0.5, tau_min="gain", tau_max=0.8)
    settings = asked.settings(asked.chosen(gain_of((-0.1, 0.1), (0.3, 0.4))))
    assert (settings.weight, settings.second_order_weight, settings.tau_max) == (0.5, 0.0, 0.8)
    assert settings.tau_min is not None and sigma_from_tau(settings.tau_min) == pytest.approx(1.0)


def test_without_a_gain_above_0_no_order_guides_whatever_was_given():
    asked = term(weight=2.0, second_order_weight=1.0, tau_max="gain")
    choice = asked.chosen(gain_of((-0.1, 0.1)))
    settings = asked.settings(choice)
    assert (settings.weight, settings.second_order_weight) == (0.0, 0.0)
    assert "the samples are unguided: train the discriminator" in choice.warning


def test_before_the_choice_the_whole_window_counts():
    asked = term(weight="gain", tau_min="gain", tau_max="gain")
    assert asked.window == term().window
    work = guided(MEASURED.last(), SCORE.last(), weight="gain", tau_min="gain").work(10)
    assert [each.times for each in work] == [
        each.times for each in guided(MEASURED.last(), SCORE.last()).work(10)
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Returns a root with a trained discriminator, and samples guided by its Gain."""
    folder = tmp_path_factory.mktemp("guided")
    source, store = write_images(folder / "images.npz"), open_store(str(folder / "root"))
    step = discriminator(source, epochs=2).model_copy(update={"gain_of": score(source).last()})
    samples = guided(step.last(), score(source).last(), weight="gain", tau_min="gain")[:16]
    complete(step, store)
    return step, samples, store


def replaced(step, store, measured: MeasuredGain) -> None:
    """Replaces the recorded Gain of the last epoch."""
    steps = Root(store).step_store(step)
    key = next(
        entry.key
        for entry in store.list(f"{step.name}/epochs")
        if entry.key.rsplit("/")[-1].startswith("00002")
    )
    receipt = json.loads(store.get(key))
    receipt["metrics"] |= measured.metrics()
    store.delete(key)
    assert store.create(key, json.dumps(receipt).encode())
    assert steps.receipt(key).metrics["gain"] == measured.metrics()["gain"]


def test_samples_are_guided_by_the_recorded_gain_and_the_plan_tells_it(finished):
    step, samples, store = finished
    replaced(step, store, gain_of((-0.1, 0.1), (0.36, 0.4)))
    inputs = complete(samples.step, store)
    made = samples.step.shard_builder(inputs)(0, 8)
    (asked,) = samples.step.guidance
    # Between sigma = 1 and no upper end, at weight 0.36 / 0.4.
    same = asked.model_copy(update={"weight": 0.9, "tau_min": tau_from_sigma(1.0)})
    same = samples.step.model_copy(update={"guidance": (same,)})
    assert (made["image"] == same.shard_builder(complete(same, store))(0, 8)["image"]).all()
    told = "weight 0.9, sigma from 1"
    assert samples.step.remarks(inputs) == (f"guidance.0.by_gain: {told}",)
    assert plan(samples, store)[-1].choices == {"guidance.0.by_gain": told}
    assert f"guidance.0.by_gain: {told}" in plan_table(plan(samples, store), store)


def test_shards_of_another_choice_are_not_taken_for_fresh_and_the_plan_says_why(finished):
    step, samples, store = finished
    replaced(step, store, gain_of((-0.1, 0.1), (0.36, 0.4)))
    first = complete_slice(samples, store)
    assert plan(samples, store)[-1].action == "reuse"
    replaced(step, store, gain_of((-0.1, 0.1), (0.24, 0.4)))
    state = plan(samples, store)[-1]
    assert state.action == "rebuild" and state.reason == "stale: made from another guidance.0.by_gain"
    second = complete_slice(samples, store)
    assert (first["image"] != second["image"]).any()
    replaced(step, store, gain_of((-0.1, 0.1), (0.36, 0.4)))
    assert plan(samples, store)[-1].action == "reuse"  # the first shards are there, under their own names


def complete_slice(samples, store) -> dict[str, np.ndarray]:
    """Makes and seals a slice; returns its images."""
    root, bound = Root(store), plan(samples, store)[-1].bound
    assert bound is not None
    steps = root.step_store(samples.step)
    steps.declare(samples.step.document())
    work = shard_work(samples.step, steps, bound)
    for number in samples.shards:
        work(number)
    keys = [steps.key("shards", number, bound.digests) for number in samples.shards]
    steps.seal(samples.start, samples.stop, bound.digests, keys, samples.step.remarks(bound))
    item = root.item(samples, bound)
    assert isinstance(item, BoundRows)
    return {"image": np.concatenate([part["image"] for part in item.read(["image"])])}


def test_an_epoch_that_records_no_gain_gives_none(finished):
    step, samples, store = finished
    replaced(step, store, gain_of((-0.1, 0.1), (0.36, 0.4)))
    bound = plan(samples, store)[-1].bound
    assert bound is not None
    name = "guidance.0.discriminator"
    item = bound.items[name]
    assert isinstance(item, BoundWeights)
    bare = replace(item, receipt=item.receipt.model_copy(update={"metrics": {"held_out_loss": 0.5}}))
    with pytest.raises(
        ValueError, match="expected epoch 2 of train-discriminator.* found held_out_loss alone"
    ):
        samples.step.choices(Bound({**bound.items, name: bare}))


def test_a_choice_of_no_guidance_is_a_warning_of_the_report(finished):
    step, samples, store = finished
    replaced(step, store, gain_of((-0.1, 0.1), (-0.1, 0.4)))
    plans = plan(samples, store)
    assert plans[-1].choices == {"guidance.0.by_gain": "weight 0, as no weight has a Gain above 0"}
    (warning,) = choice_doubts(plans)
    assert warning.startswith("generate seed 5") and "samples are unguided" in warning


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: guided(DISC.last(), SCORE.last(), weight="gain"), "found one without gain_of: train it"),
        (
            lambda: guided(MEASURED.last(), SCORE.epoch(3), weight="gain"),
            r"Gain of the score network that is guided, train-score \(epoch:3\), found that of .* \(last\)",
        ),
        (lambda: term(second_order_weight="gain"), 'expected weight="gain" with second_order_weight="gain"'),
        (
            lambda: term(weight=Switch(above=1.0, below=2.0, timestep=9), tau_min="gain"),
            "if Gain chooses the window, found a Switch",
        ),
        (lambda: term(weight="gain", match_preceding_norm=True), "expected match_preceding_norm=False"),
        (lambda: term(tau_min="gain", after_timestep=9), "expected tau_min or after_timestep, found both"),
        (lambda: term(weight="gian"), "expected a number or Switch, found 'gian'"),
    ],
)
def test_a_choice_by_gain_that_cannot_be_is_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()


def test_a_term_without_gain_has_the_identity_of_before():
    fields = term().plain()
    assert fields["weight"] == 1.0 and fields["tau_min"] is None and "gain" not in fields
    assert term(weight="gain").plain()["weight"] == "gain"
