"""Gain as a step: of networks in closed form against quadrature, of ensembles, and as the weight of
guidance."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from diffusion.mixtures import MODEL as OLD_MODEL
from diffusion.mixtures import REAL as OLD_REAL
from diffusion.test_gain import divergence
from inprocess import complete
from steps.identities import DISC, ENCODED, FAKES, REAL, SCORE

from dgflow import (
    ClosedForm,
    DiscriminatorGuidance,
    Gain,
    GaussianMixture,
    Generate,
    Heun,
    MixturePoints,
    MixtureRatio,
    MixtureScore,
    TrainDiscriminator,
)
from dgflow.engine.execute import result_of
from dgflow.engine.plan import plan
from dgflow.specs.figures import Lines, Table
from dgflow.store.open import open_store
from dgflow.testing.smoke import smoke

DATA, MODEL = (
    GaussianMixture(means=each.means, stds=(each.std,) * 2, weights=each.weights)
    for each in (OLD_REAL, OLD_MODEL)
)
BLUNT = MODEL.model_copy(update={"stds": (0.6, 0.6)})
SCORED = ClosedForm(network=MixtureScore(mixture=MODEL)).weights()
EXACT = ClosedForm(network=MixtureRatio(real=DATA, model=MODEL)).weights()
OTHER = ClosedForm(network=MixtureRatio(real=DATA, model=BLUNT)).weights()
POINTS = MixturePoints(mixture=DATA, seed=4)


def gain(discriminator: Any = EXACT, rows: int = 1_000, **fields) -> Gain:
    ends: dict[str, Any] = {"sigma_min": 0.05, "sigma_max": 20.0}
    return Gain(score=SCORED, discriminator=discriminator, real=POINTS[:rows], **ends, **fields)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(str(tmp_path_factory.mktemp("gain-step") / "root"))


def measured(step: Gain, store) -> dict:
    complete(step, store)
    return json.loads(result_of(step, store))


def test_the_gain_of_the_exact_ratio_is_the_fall_of_the_divergence_and_its_best_weight_is_1(store):
    fall = divergence(OLD_REAL, OLD_MODEL, 0.05) - divergence(OLD_REAL, OLD_MODEL, 20.0)
    found = measured(gain(), store)
    assert abs(found["gain"] - fall) <= 3 * found["gain_error"] < 0.3 * fall
    assert abs(found["best_weight"] - 1.0) <= 3 * found["best_weight_error"] < 0.3
    assert found["gain_curve"]["images"] == 1_000 and len(found["gain_curve"]["by_sigma"]) == 8


def test_an_ensemble_has_the_gain_of_its_combination(store):
    """For the mean of log-ratios, agreement is the mean of the members' values, and energy is no larger than
    theirs."""
    single = [measured(gain(each, rows=200), store)["gain_curve"] for each in (EXACT, OTHER)]
    both = measured(gain((EXACT, OTHER), rows=200), store)["gain_curve"]
    assert both["agreement"] == pytest.approx(sum(each["agreement"] for each in single) / 2, rel=1e-5)
    assert both["energy"] < max(each["energy"] for each in single)
    otherwise = measured(gain((EXACT, OTHER), rows=200, combine="probabilities"), store)["gain_curve"]
    assert otherwise["agreement"] != both["agreement"]


def test_the_result_of_the_step_gives_the_weight_that_guides_an_ensemble(store):
    step = gain((EXACT, OTHER), rows=200)
    term = DiscriminatorGuidance(
        discriminator=(EXACT, OTHER), weight=step.result(), second_order_weight="gain", tau_min="gain"
    )
    samples = Generate(score=SCORED, sampler=Heun(steps=4), guidance=(term,), shard_size=8)
    inputs = complete(samples, store)
    assert set(samples.inputs()) == {
        "score",
        "guidance.0.discriminator.0",
        "guidance.0.discriminator.1",
        "guidance.0.weight",
    }
    choice = samples.choices(inputs)["guidance.0.by_gain"]
    settings = term.settings(choice)
    assert choice.weight is not None and settings.weight == settings.second_order_weight == choice.weight
    assert choice.weight == round(choice.weight, 2) and 0.5 < choice.weight < 1.5
    made = samples.shard_builder(inputs)(0, 8)
    fixed = samples.model_copy(
        update={
            "guidance": (
                term.model_copy(
                    update={
                        "weight": choice.weight,
                        "second_order_weight": choice.weight,
                        "tau_min": settings.tau_min,
                    }
                ),
            )
        }
    )
    assert (made["latent"] == fixed.shard_builder(complete(fixed, store))(0, 8)["latent"]).all()


def test_its_figures_and_quantities_are_what_it_measured(store):
    step = gain()
    content = json.dumps(measured(step, store)).encode()
    values, (table, *others) = json.loads(content), step.figures(content)
    curves = [each for each in others if isinstance(each, Lines)]
    assert isinstance(table, Table) and len(curves) == len(others) == 2
    assert table.rows[0][1] == f"{values['gain']:.4f} ± {values['gain_error']:.4f}"
    (arm,) = step.compared(content).values()
    assert {name: arm[name]["mean"] for name in step.quantities} == {
        name: values[name] for name in ("gain", "gain_at_best_weight")
    }
    assert not any(math.isnan(y) for each in curves for curve in each.curves for y in curve.y)


def test_the_plan_counts_one_evaluation_of_each_network_for_each_item(tmp_path):
    step = gain((EXACT, OTHER), rows=3_000)
    state = plan(step, open_store(str(tmp_path)))[-1]
    assert state.evaluations == 2_048 * 8
    assert [(each.network, each.use, each.times) for each in state.work] == [
        (SCORED.step, "forward", 2_048 * 8),
        (EXACT.step, "gradient", 2_048 * 8),
        (OTHER.step, "gradient", 2_048 * 8),
    ]


TRAINED = TrainDiscriminator(real=REAL[:100], fake=FAKES[:100], batch_size=8)


def of_trained(real, step=TRAINED, **fields) -> Gain:
    return Gain(score=SCORE.last(), discriminator=step.last(), real=real, **fields)


def guided(discriminator, weight) -> Generate:
    term = DiscriminatorGuidance(discriminator=discriminator, weight=weight)
    return Generate(score=SCORED, guidance=(term,))


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (
            lambda: of_trained(REAL[:50]),
            r"was not trained on, found \[0:50\], of which \[0:90\] were in its training",
        ),
        (
            lambda: of_trained(REAL[95:200], TRAINED.model_copy(update={"bootstrap": 1})),
            r"of which \[0:100\] were in its training; take others, such as \[100:205\]",
        ),
        (lambda: of_trained(REAL[200:201]), "expected at least two images, found 1"),
        (lambda: of_trained(REAL[200:300], sigma_min=5.0, sigma_max=5.0), "sigma_min < sigma_max"),
        (lambda: of_trained(ENCODED[:50]), "score: expected a score network for the real ones' 18 channels"),
        (lambda: guided(EXACT, gain(OTHER).result()), "expected the Gain of the guiding discriminators"),
        (lambda: guided((EXACT, OTHER), "gain"), "found 2 discriminators: measure their Gain with a step"),
        (lambda: guided(EXACT, "gain"), "found a closed-form: measure their Gain with a step"),
        (
            lambda: Generate(
                score=SCORE.last(),
                guidance=(DiscriminatorGuidance(discriminator=DISC.last(), weight=gain().result()),),
            ),
            "expected the Gain of the guiding discriminators",
        ),
    ],
)
def test_a_gain_that_cannot_be_is_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()


def test_rows_that_a_training_held_out_may_be_measured():
    assert of_trained(REAL[90:200]).images == 110


def test_its_smoke_run_measures_images_that_the_toy_training_holds_out():
    toy = smoke(of_trained(REAL[90:200]), "memory://smoke").target
    assert isinstance(toy, Gain)
    step = toy.term.guides[0].step
    assert isinstance(step, TrainDiscriminator) and toy.real.start >= step.split("real")[0]
    assert toy.real.fingerprint == step.real.fingerprint and toy.images >= 2
