"""Second networks and scaled noise in recipes: what is made, planned, measured and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inprocess import complete
from steps.identities import DISC, LATENTS, REAL, SCORE
from steps.test_score_models import SAMPLERS
from steps.toy_networks import SCORES, pretrained

import dgflow as dg
from dgflow.diffusion.linear_vp import LINEAR_VP
from dgflow.engine.execute import result_of
from dgflow.engine.plan import plan
from dgflow.specs.step import Slice, Weights
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store


def gaussian(mean: float) -> dg.GaussianMixture:
    return dg.GaussianMixture(means=((mean, 0.0),), stds=(0.3,), weights=(1.0,))


def score_of(mean: float) -> Weights:
    return dg.ClosedForm(network=dg.MixtureScore(mixture=gaussian(mean))).weights()


OWN, OTHER = score_of(0.5), score_of(-0.1)
RATIO = dg.ClosedForm(network=dg.MixtureRatio(real=gaussian(1.0), model=gaussian(0.5))).weights()
AWAY = dg.NetworkGuidance(network=OTHER, weight=2.5)  # 0.5 and -0.1: the mean moves to 1.4
EXACT = dg.DiscriminatorGuidance(discriminator=RATIO, second_order_weight=1.0, tau_min=0.0)
SCALED = dg.EpsilonScaling(factor=1.01)
FLOWS = (dg.Heun(), dg.EDMAblation(), dg.RK45(), dg.DDIM(respacing="20"))


def generate(*terms: Any, **fields: Any) -> dg.Generate:
    return dg.Generate(**{"score": OWN, "guidance": terms, "shard_size": 8, "sampler": dg.Heun()} | fields)


def rows(step: Any, store: ObjectStore, count: int = 8) -> dict[str, np.ndarray]:
    return step.shard_builder(complete(step, store))(0, count)


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    return MemoryStore("corrections")


@pytest.mark.parametrize("sampler", FLOWS, ids=[type(each).__name__ for each in FLOWS])
def test_samples_taken_away_from_a_second_network_are_those_of_the_score_beyond(store, sampler):
    found = rows(generate(AWAY, sampler=sampler), store)
    expected = rows(generate(score=score_of(1.4), sampler=sampler), store)
    np.testing.assert_allclose(found["latent"], expected["latent"], atol=2e-3)


def test_a_weight_of_1_and_a_range_without_steps_are_the_plain_sampler_bit_for_bit(store):
    plain = rows(generate(), store)
    idle = [AWAY.model_copy(update={"weight": 1.0}), AWAY.model_copy(update={"sigma_min": 100.0})]
    for correction in (*idle, dg.EpsilonScaling(factor=1.0)):
        found = rows(generate(correction), store)
        assert all((found[name] == plain[name]).all() for name in plain)


def test_they_combine_with_a_discriminator_which_acts_on_what_they_correct(store):
    """The ratio of N(1, s) to N(0.5, s), on samples of N(1.4, s), moves the mean by 0.5 at every level."""
    found = rows(generate(EXACT, AWAY), store)
    expected = rows(generate(score=score_of(1.9)), store)
    np.testing.assert_allclose(found["latent"], expected["latent"], atol=2e-3)
    assert set(found) - set(expected) == {"log_ratio"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corrections")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_networks_are_told_the_classes_that_they_know_under_every_sampler(folder, sampler):
    """A score network without classes and one with classes guide each other."""
    store = open_store(str(folder / "root"))
    told = pretrained(folder, "SongUNet", **SCORES["SongUNet"]).weights()
    untold = pretrained(folder, "NCSNpp", **SCORES["NCSNpp"]).weights()
    for score, other in ((told, untold), (untold, told)):
        away = dg.NetworkGuidance(network=other, weight=1.7, sigma_min=0.2, sigma_max=5.0)
        options: dict[str, Any] = {"score": score, "sampler": SAMPLERS[sampler], "shard_size": 4}
        plain, corrected = (
            rows(dg.Generate(guidance=guidance, **options), store, 4) for guidance in ((), (SCALED, away))
        )
        assert (plain["image"] != corrected["image"]).any()
        assert set(corrected["label"]) <= {0, 1, 2}  # since one of them has classes


@pytest.mark.parametrize("sampler", ["DDPM", "Heun"])
def test_the_null_class_of_the_network_itself_is_classifier_free_guidance(folder, sampler):
    store = open_store(str(folder / "root"))
    dit = pretrained(folder, "DiT", **SCORES["DiT"]).weights()
    options: dict[str, Any] = {"score": dit, "sampler": SAMPLERS[sampler], "shard_size": 4}
    away = dg.NetworkGuidance(network=dit, weight=3.0, without_class=True)
    free = dg.ClassifierFree(scale=3.0, channels=None)
    found, expected, plain = (
        rows(dg.Generate(guidance=guidance, **options), store, 4)["latent"].astype(float)
        for guidance in ((away,), (free,), ())
    )
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert np.abs(found - plain).max() > 0.01


def test_the_plan_counts_the_second_network_where_it_is_asked(store):
    """EDM2's interval contains 6 of 32 steps, each with two evaluations: 75 in all (Kynkäänniemi et al.
    2024)."""
    interval = AWAY.model_copy(update={"sigma_min": 0.19, "sigma_max": 1.61})
    step = generate(SCALED, interval, EXACT, sampler=dg.Heun(steps=32))
    (state,) = plan(step[:8], store)[-1:]
    assert [(work.network.name, work.use, work.times) for work in state.work] == [
        (OWN.name, "forward", 8 * 63),
        (OTHER.name, "forward", 8 * 12),
        (RATIO.name, "gradient", 8 * 63),
    ]
    idle = generate(AWAY.model_copy(update={"weight": 1.0}))
    assert [work.times for work in plan(idle[:8], store)[-1].work] == [8 * 35, 0.0]
    adaptive = generate(SCALED, AWAY.model_copy(update={"weight": 1.0}), interval, sampler=dg.RK45())
    works = [work.times for work in plan(adaptive[:8], store)[-1].work]
    assert works[:2] == [8 * 140.0, 0.0]
    share = LINEAR_VP.time(1.61) - LINEAR_VP.time(0.19)
    assert works[2] == pytest.approx(8 * 140 * share, rel=1e-3)


def test_titles_and_inputs_name_the_second_network():
    step = generate(SCALED, AWAY)
    assert list(step.inputs()) == ["score", "guidance.1.network"]
    assert step.title == (
        f"generate seed 0, guided by a scaled prediction of the noise and {OTHER.title} ({OTHER.which})"
    )


def test_the_likelihood_of_a_corrected_arm_is_that_of_its_gaussian(store):
    points: Slice = dg.MixturePoints(mixture=gaussian(1.4), seed=2)[:12]
    measure = dg.Likelihood(
        score=OWN,
        arms={"plain": (), "away": (AWAY,), "scaled": (SCALED,)},
        real=points,
        dequantise=False,
        noised=False,
        divergence="exact",
        sigma_min=0.02,
        sigma_max=80.0,
        methods=("nll",),
    )
    complete(measure, store)
    arms = json.loads(result_of(measure, store))["arms"]
    x = complete(measure, store).rows("real", ["latent"])["latent"][:, :, 0, 0].astype(float)
    variance = 0.3**2 + 0.02**2
    bits = ((x - [1.4, 0.0]) ** 2 / variance + np.log(2 * np.pi * variance)).sum(1).mean() / 4 / np.log(2)
    assert arms["away"]["nll"][0] == pytest.approx(bits, abs=0.02)  # the ODE starts at N(0, 80^2)
    assert arms["plain"]["nll"][0] > bits + 1.0
    works = [(work.network.name, work.use) for work in measure.work(1)]
    assert works.count((OTHER.name, "gradient")) == 1


def test_figures_of_mechanism_follow_corrected_arms(store):
    points: Slice = dg.MixturePoints(mixture=gaussian(1.4), seed=2)[:4]
    step = generate(SCALED, AWAY, EXACT)
    paths = dg.LogRatioPath(arms={"guided": step[:4]}, discriminator=RATIO, real=points, sigma_min=0.05)
    averages = dg.Regeneration(
        score=OWN, arms={"plain": (), "guided": step.guidance}, real=points, sigmas=(0.5,), draws=4
    )
    for made in (paths, averages):
        complete(made, store)
    assert [work.times for work in paths.work(1) if work.network.name == OTHER.name] == [4 * 35]
    count = next(work.times for work in averages.work(1) if work.network.name == OTHER.name)
    assert count > 0 and count % 16 == 0


def test_translations_are_corrected_from_their_start_on(store):
    points: Slice = dg.MixturePoints(mixture=gaussian(0.0), seed=2)[:8]
    options: dict[str, Any] = {"source": points, "start": 0.4, "shard_size": 8}
    found = rows(dg.Translate(score=OWN, guidance=(AWAY,), **options), store)
    expected = rows(dg.Translate(score=score_of(1.4), **options), store)
    np.testing.assert_allclose(found["latent"], expected["latent"], atol=2e-3)


SMALL = dg.ImportImages(source="small.npz", num_images=100, num_classes=3, image_size=16, channels=1)
FEWER = dg.ImportImages(source="fewer.npz", num_images=100, num_classes=2, image_size=8, channels=1)
REFUSED = {
    "the same network": (SCORE.last(), r"guidance\.0: expected another network .* found the same weights"),
    "a discriminator": (
        DISC.last(),
        r"guidance\.0\.network: expected a TrainScore or a Pretrained SongUNet.*, found train-discriminator",
    ),
    "another size": (
        dg.TrainScore(real=SMALL[:100]).last(),
        r"guidance\.0: expected a network for the score network's samples, 1 channels of 8 .* 1 of 16",
    ),
    "fewer classes": (
        dg.TrainScore(real=FEWER[:100]).last(),
        r"guidance\.0: expected a network that knows the 3 classes of the score network, found 2 classes",
    ),
}


@pytest.mark.parametrize(("network", "message"), REFUSED.values(), ids=REFUSED)
def test_networks_that_do_not_fit_are_refused(network, message):
    with pytest.raises(ValueError, match=message):
        dg.Generate(score=SCORE.last(), guidance=(dg.NetworkGuidance(network=network, weight=2.0),))


def test_a_null_class_and_latents_are_asked_only_of_networks_that_have_them():
    other = dg.TrainScore(real=REAL[:100], seed=5).last()
    with pytest.raises(ValueError, match=r"without_class needs a network with a null class \(DiT\)"):
        dg.Generate(
            score=SCORE.last(), guidance=(dg.NetworkGuidance(network=other, weight=2.0, without_class=True),)
        )
    shape: dict[str, Any] = {
        "image_size": LATENTS.shape.image_size,
        "channels": LATENTS.shape.channels,
        "num_classes": 3,
    }
    pixels = dg.Pretrained(source="net.safetensors", network=dg.SongUNet(), **shape).weights()
    latents = dg.TrainScore(real=LATENTS[:100]).last()
    with pytest.raises(ValueError, match="expected a second network of latents, .* found one of images"):
        dg.Generate(score=latents, guidance=(dg.NetworkGuidance(network=pixels, weight=2.0),))


def test_a_norm_is_matched_to_a_term_and_not_to_a_correction():
    judge = dg.DiscriminatorGuidance(discriminator=DISC.last(), match_preceding_norm=True)
    with pytest.raises(ValueError, match=r"guidance\.1: match_preceding_norm has no term before it"):
        dg.Generate(score=SCORE.last(), guidance=(SCALED, judge))


def test_a_network_for_other_noise_levels_is_refused_before_any_sample(folder):
    """VE's networks start at 0.02, and this sampler ends at 0.002."""
    told, other = (pretrained(folder, name, **SCORES[name]).weights() for name in ("SongUNet", "SongUNet VE"))
    away = dg.NetworkGuidance(network=other, weight=2.0)
    step = dg.Generate(score=told, guidance=(away,))
    with pytest.raises(ValueError, match=r"guides, 0\.00\d+ to .* found one for 0\.02 to 100: narrow"):
        step.work(1)
    assert step.model_copy(update={"guidance": (away.model_copy(update={"sigma_min": 0.1}),)}).work(1)


WINDOWED = AWAY.model_copy(update={"weight": 1.3, "sigma_min": 0.2, "sigma_max": 5.0})
REFINED: dict[str, Any] = {"guidance": (SCALED, WINDOWED), "sampler": dg.Heun(steps=6)}
THRESHOLDS = dg.RejectionThresholds(samples=generate(**REFINED)[:16], discriminator=RATIO, quantile=0.75)
SELECTIONS = {
    "rejection": dg.Rejection(discriminator=RATIO, thresholds=THRESHOLDS.result()),
    "particles": dg.Particles(count=3, discriminator=RATIO),
    "best of": dg.BestOf(count=3, discriminator=RATIO),
}


@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)
def test_what_selections_count_of_a_second_network_does_not_depend_on_batches(store, selection):
    """Rows of one batch of a rejection are at several levels, inside and outside the range."""
    step = generate(**REFINED, selection=selection, shard_size=24)
    found, other = (rows(step.model_copy(update={"batch_size": size}), store, 24) for size in (24, 2))
    for name in ("score_evaluations", "guide_evaluations"):
        np.testing.assert_array_equal(found[name], other[name])
    of_scaling, of_second = found["guide_evaluations"].T
    assert not of_scaling.any()
    assert ((of_second > 0) & (of_second < found["score_evaluations"])).all()
