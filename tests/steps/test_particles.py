"""Particles: samples whose parts on the way are resampled by a discriminator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from diffusion.mixtures import MODEL, REAL, Mixture
from inprocess import complete
from steps.identities import DISC, SCORE
from steps.test_clean_discriminator import CLEAN

import dgflow as dg
from dgflow.engine.plan import plan
from dgflow.specs.step import MeasuredColumns
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore


def spec(mixture: Mixture) -> dg.GaussianMixture:
    return dg.GaussianMixture(means=mixture.means, stds=(mixture.std,) * 2, weights=mixture.weights)


SCORE_OF_MODEL = dg.ClosedForm(network=dg.MixtureScore(mixture=spec(MODEL))).weights()
RATIO = dg.ClosedForm(network=dg.MixtureRatio(real=spec(REAL), model=spec(MODEL))).weights()
SAMPLER = dg.Heun(steps=12, sigma_min=0.02, sigma_max=20.0)


def generate(selection: Any = None, **fields: Any) -> dg.Generate:
    options: dict[str, Any] = {"score": SCORE_OF_MODEL, "sampler": SAMPLER, "shard_size": 300, "seed": 3}
    return dg.Generate(selection=selection, **options | fields)


def particles(**fields: Any) -> dg.Particles:
    return dg.Particles(discriminator=RATIO, **fields)


def rows(step: Any, store: ObjectStore, start: int = 0, stop: int = 8) -> dict[str, np.ndarray]:
    return step.shard_builder(complete(step, store))(start, stop)


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    return MemoryStore("particles")


def left(step: dg.Generate, store: ObjectStore) -> float:
    """The share of 300 samples in the mode on the left, 0.25 of REAL and 0.6 of MODEL."""
    return float((rows(step, store, 0, 300)["latent"][:, 0, 0, 0] < 0).mean())


def test_resampled_samples_move_from_the_model_s_law_to_the_data_s(store):
    """The modes are drawn at high noise levels: 16 particles put them right, to within their own number."""
    error = (0.25 * 0.75 / 300) ** 0.5
    assert left(generate(), store) == pytest.approx(0.6, abs=4 * error)
    assert left(generate(particles(count=16)), store) == pytest.approx(0.25, abs=4 * error)
    assert left(generate(particles(count=16, keep="best")), store) < 0.25


def test_samples_do_not_depend_on_shards_and_batches(store):
    step = generate(particles(count=3, share=0.9), sampler=SAMPLER.model_copy(update={"S_churn": 4.0}))
    whole = rows(step, store, 0, 12)
    parts = [rows(step.model_copy(update={"batch_size": 5}), store, *ends) for ends in ((0, 5), (5, 12))]
    for name, values in whole.items():
        np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]))


def test_without_a_reason_to_resample_the_best_of_them_is_best_of_n(store):
    sampler = SAMPLER.model_copy(update={"S_churn": 4.0})
    found = rows(generate(particles(count=3, at=(), keep="best"), sampler=sampler), store)
    expected = rows(generate(dg.BestOf(discriminator=RATIO, count=3), sampler=sampler), store)
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name])


def test_every_sample_records_the_evaluations_of_all_its_particles(store):
    guidance = (dg.EpsilonScaling(factor=1.01),)
    columns = rows(generate(particles(count=3, at=(10.0, 1.0)), guidance=guidance, batch_size=10), store)
    assert isinstance(columns, MeasuredColumns) and columns.metrics["utilisation"] == 0.8  # 24 in 3 of 10
    assert columns["score_evaluations"].tolist() == [3 * 23] * 8
    assert columns["guide_evaluations"].tolist() == [[3 * 23]] * 8
    assert columns["discriminator_evaluations"].tolist() == [3 * 3] * 8
    always = rows(generate(particles(count=3)), store)
    assert always["discriminator_evaluations"].tolist() == [3 * 12] * 8


def test_the_plan_counts_all_of_them(store):
    (state,) = plan(generate(particles(at=(10.0, 1.0)), shard_size=8)[:8], store)[-1:]
    assert [(work.network.name, work.use, work.times) for work in state.work] == [
        (SCORE_OF_MODEL.name, "forward", 8 * 4 * 23),
        (RATIO.name, "forward", 8 * 4 * 3),
    ]
    assert generate(particles()).title == "generate seed 3, resampled among 4 particles"


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: particles(count=1), "expected 2 to 1,024 particles.*found 1.*plain sampler"),
        (lambda: dg.Particles(), "discriminator"),  # type: ignore[call-arg]
        (
            lambda: generate(particles(), sampler=dg.RK45()),
            "selection: expected a sampler whose steps are fixed.*found RK45.*BestOf",
        ),
        (
            lambda: dg.Generate(score=SCORE.last(), selection=dg.Particles(discriminator=CLEAN.last())),
            "selection.discriminator: expected a network of noisy samples",
        ),
        (lambda: particles(at=(-1.0,)), "at"),
    ],
)
def test_mistakes_say_what_was_expected(build, says):
    with pytest.raises(ValueError, match=says):
        build()
    assert dg.Generate(score=SCORE.last(), selection=dg.Particles(discriminator=DISC.last()))


@pytest.mark.parametrize(
    ("at", "says"),
    [
        ((50.0, 1.0), "at: expected noise levels from 0.02 to 20.*found 50"),
        ("restarts", "at: expected.*restarts"),
    ],
)
def test_what_the_sampler_s_steps_do_not_have_is_refused(store, at, says):
    with pytest.raises(ValueError, match=says):
        rows(generate(particles(at=at)), store)


def test_weights_are_looked_at_in_the_steps_that_begin_nearest_to_the_levels():
    levels = (10.0, 1.0, 0.1, 0.0)
    assert particles(at=(3.0, 0.9, 0.1)).positions(levels) == {1, 2}
    assert particles().positions(levels) == {1, 2}
    assert particles(at="restarts").positions((10.0, 1.0, 1.0, 1.0, 0.0)) == {1, 2}
