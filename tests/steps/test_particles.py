"""Particles: several paths per sample, resampled on the way by a discriminator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from diffusion.mixtures import MODEL, REAL, Mixture
from inprocess import complete
from steps.identities import DISC, SCORE
from steps.test_clean_discriminator import CLEAN

import dgflow as dg
from dgflow.diffusion.heun import edm_sigmas
from dgflow.engine.plan import plan
from dgflow.specs.step import MeasuredColumns
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore


def spec(mixture: Mixture) -> dg.GaussianMixture:
    return dg.GaussianMixture(means=mixture.means, stds=(mixture.std,) * 2, weights=mixture.weights)


SCORE_OF_DATA = dg.ClosedForm(network=dg.MixtureScore(mixture=spec(REAL))).weights()
SCORE_OF_MODEL = dg.ClosedForm(network=dg.MixtureScore(mixture=spec(MODEL))).weights()
RATIO = dg.ClosedForm(network=dg.MixtureRatio(real=spec(REAL), model=spec(MODEL))).weights()
SAMPLER = dg.Heun(steps=9, sigma_min=0.02, sigma_max=20.0)


def generate(selection: Any = None, **fields: Any) -> dg.Generate:
    options: dict[str, Any] = {"score": SCORE_OF_MODEL, "sampler": SAMPLER, "shard_size": 200, "seed": 4}
    return dg.Generate(selection=selection, **options | fields)


def particles(**fields: Any) -> dg.Particles:
    return dg.Particles(discriminator=RATIO, **fields)


def rows(step: Any, store: ObjectStore, start: int = 0, stop: int = 8) -> dict[str, np.ndarray]:
    return step.shard_builder(complete(step, store))(start, stop)


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    return MemoryStore("particles")


def left(columns: dict[str, np.ndarray]) -> float:
    """Returns the share of samples in the left mode, 0.25 for REAL and 0.6 for MODEL."""
    return float((columns["latent"][:, 0, 0, 0] < 0).mean())


ERROR = 4 * (0.25 * 0.75 / 200) ** 0.5


def test_resampled_samples_move_from_the_model_s_law_to_the_data_s(store):
    by_weight, best = particles(count=8), particles(count=8, keep="best")
    shares = [left(rows(generate(each), store, 0, 200)) for each in (None, by_weight, best)]
    assert shares[0] == pytest.approx(0.6, abs=ERROR)
    assert shares[1] == pytest.approx(0.25, abs=ERROR)
    assert shares[2] < shares[1]


def test_samples_do_not_depend_on_shards_and_batches(store):
    step = generate(particles(count=3, share=0.9), sampler=SAMPLER.model_copy(update={"S_churn": 4.0}))
    whole = rows(step, store, 0, 12)
    parts = [rows(step.model_copy(update={"batch_size": 5}), store, *ends) for ends in ((0, 5), (5, 12))]
    for name, values in whole.items():
        np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]))


INTERVAL = dg.RestartInterval(points=3, repeats=2, sigma_min=0.5, sigma_max=2.0)
SAMPLERS = (
    SAMPLER.model_copy(update={"S_churn": 4.0}),
    dg.Restart(steps=9, sigma_min=0.02, sigma_max=20.0, restarts=(INTERVAL,), restart_gamma=0.05),
    dg.EDMAblation(steps=9, sigma_min=0.02, sigma_max=20.0, scaling="vp", schedule="vp"),
    dg.DDPM(respacing="20"),
    dg.DDIM(respacing="20"),
)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_without_a_reason_to_resample_the_best_of_them_is_best_of_n(store, sampler):
    found = rows(generate(particles(count=3, at=(), keep="best"), sampler=sampler), store)
    expected = rows(generate(dg.BestOf(discriminator=RATIO, count=3), sampler=sampler), store)
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name])


@pytest.mark.parametrize("sampler", SAMPLERS[1:], ids=lambda sampler: type(sampler).__name__)
def test_particles_are_resampled_between_the_steps_of_every_sampler_that_has_a_path(store, sampler):
    columns = rows(generate(particles(count=8), sampler=sampler), store, 0, 100)
    assert left(columns) == pytest.approx(0.25, abs=1.5 * ERROR)
    moves = sampler.nfe if isinstance(sampler, dg.DDPM | dg.DDIM) else sampler.steps
    moves += sum(interval.repeats for interval in getattr(sampler, "restarts", ()))
    assert set(columns["discriminator_evaluations"]) == {8 * moves}


def test_particles_are_resampled_at_restarts(store):
    again = dg.RestartInterval(points=3, repeats=4, sigma_min=5.0, sigma_max=15.0)
    restart = dg.Restart(**dict(SAMPLER), restarts=(again,))
    columns = rows(generate(particles(count=8, at="restarts"), sampler=restart), store, 0, 200)
    assert left(columns) == pytest.approx(0.25, abs=ERROR)
    assert set(columns["discriminator_evaluations"]) == {8 * 5}
    assert set(columns["score_evaluations"]) == {8 * restart.nfe}


def test_every_sample_records_the_evaluations_of_all_its_particles(store):
    guidance = (dg.EpsilonScaling(factor=1.01), dg.NetworkGuidance(network=SCORE_OF_DATA, weight=1.5))
    columns = rows(generate(particles(count=3, at=(10.0, 1.0)), guidance=guidance, batch_size=10), store)
    assert isinstance(columns, MeasuredColumns) and columns.metrics["utilisation"] == 0.8  # 24 in 3 of 10
    assert columns["score_evaluations"].tolist() == [3 * 17] * 8
    assert columns["guide_evaluations"].tolist() == [[0, 3 * 17]] * 8
    assert columns["discriminator_evaluations"].tolist() == [3 * 3] * 8
    always = rows(generate(particles(count=3)), store)
    assert always["discriminator_evaluations"].tolist() == [3 * 9] * 8


def test_the_plan_counts_all_of_them(store):
    (state,) = plan(generate(particles(at=(10.0, 1.0)), shard_size=8)[:8], store)[-1:]
    assert [(work.network.name, work.use, work.times) for work in state.work] == [
        (SCORE_OF_MODEL.name, "forward", 8 * 4 * 17),
        (RATIO.name, "forward", 8 * 4 * 3),
    ]
    again = dg.RestartInterval(points=3, repeats=4, sigma_min=0.5, sigma_max=2.0)
    restart = dg.Restart(**dict(SAMPLER), restarts=(again,))
    for at, sampler, looks in (
        ("always", SAMPLER, 8),
        ("restarts", restart, 4),
        ("always", restart, 12),
        ("always", dg.DDPM(respacing="20"), 19),
    ):
        assert particles(at=at).evaluations(sampler) == (4 * sampler.nfe, 4 * (1 + looks))
    assert generate(particles()).title == "generate seed 4, resampled among 4 particles"


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: particles(count=1), "expected 2 to 1,024 particles.*found 1.*plain sampler"),
        (lambda: dg.Particles(), "discriminator"),  # type: ignore[call-arg]
        (
            lambda: generate(particles(), sampler=dg.RK45()),
            "selection: expected a sampler with steps fixed in advance.*found RK45.*BestOf",
        ),
        (
            lambda: dg.Generate(score=SCORE.last(), selection=dg.Particles(discriminator=CLEAN.last())),
            "selection.discriminator: expected a network of noisy samples",
        ),
        (lambda: particles(at=(-1.0,)), "at"),
        (lambda: particles(at=(2.0, 1.0, 2.0)), "at.*expected different noise levels, found 2, 1, 2"),
        (
            lambda: generate(particles(at="restarts"), sampler=dg.Restart()),
            "selection.at: expected a sampler with restarts.*found Restart without any",
        ),
    ],
)
def test_mistakes_say_what_was_expected(build, says):
    with pytest.raises(ValueError, match=f"(?s){says}"):
        build()
    assert dg.Generate(score=SCORE.last(), selection=dg.Particles(discriminator=DISC.last()))


def test_a_level_that_the_sampler_does_not_pass_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match="selection.at: expected noise levels from 0.02 to 20.*found 50"):
        generate(particles(at=(50.0, 1.0)))
    with pytest.raises(ValueError, match="selection.at: expected noise levels from 0.002 to 80.*found 0.001"):
        generate(particles(at=(1e-3, 80.0)), sampler=dg.Heun())
    assert generate(particles(at=(1e-3, 500.0)), sampler=dg.DDPM(respacing="20"))  # of its network
    with pytest.raises(ValueError, match="at: expected noise levels from 0.02 to 20.*found 50"):
        particles(at=(50.0, 1.0)).positions((20.0, 0.02, 0.0))


def test_weights_are_looked_at_in_the_steps_that_begin_nearest_to_the_levels():
    levels = (10.0, 1.0, 0.1, 0.0)
    assert particles(at=(3.0, 0.9, 0.1)).positions(levels) == {1, 2}
    assert particles().positions(levels) == {1, 2}
    assert particles(at="restarts").positions((10.0, 1.0, 1.0, 1.0, 0.0)) == {1, 2}


def test_published_settings_resample_before_the_published_steps():
    for row, steps in (("imagenet64", {31, 35, 39, 43, 47, 51}), ("ffhq64", {15, 19, 23, 27})):
        sampler, selection = dg.particle_filter(row, DISC.last())
        assert dg.Generate(score=SCORE.last(), sampler=sampler, selection=selection)
        assert selection.positions(edm_sigmas(sampler.steps)) == steps
    sampler, selection = dg.particle_filter("imagenet64-restart", DISC.last())
    assert selection.evaluations(sampler) == (4 * 99, 4 * 12)
    with pytest.raises(ValueError, match="expected one of the published rows"):
        dg.particle_filter("cifar10", DISC.last())
