"""Best of n: of several samples, the one with the largest log-ratio."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from inprocess import complete
from steps.identities import DISC, SCORE
from steps.test_clean_discriminator import CLEAN
from steps.toy_networks import HEAD, SCORES, discriminator, pretrained

import dgflow as dg
from dgflow.engine.plan import plan
from dgflow.specs.step import MeasuredColumns
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store


def gaussian(mean: float) -> dg.GaussianMixture:
    return dg.GaussianMixture(means=((mean, 0.0),), stds=(0.5,), weights=(1.0,))


MODEL = dg.ClosedForm(network=dg.MixtureScore(mixture=gaussian(0.0))).weights()
RATIO = dg.ClosedForm(network=dg.MixtureRatio(real=gaussian(0.2), model=gaussian(0.0))).weights()
OTHER = dg.ClosedForm(network=dg.MixtureScore(mixture=gaussian(-0.1))).weights()
SAMPLERS = (dg.Heun(S_churn=10.0), dg.DDPM(respacing="20"), dg.RK45(tolerance=1e-3))


def generate(count: int = 0, **fields: Any) -> dg.Generate:
    selection = dg.BestOf(discriminator=RATIO, count=count) if count else None
    options: dict[str, Any] = {"score": MODEL, "selection": selection, "shard_size": 400, "seed": 3}
    return dg.Generate(**options | fields)


def rows(step: Any, store: ObjectStore, start: int = 0, stop: int = 8) -> dict[str, np.ndarray]:
    return step.shard_builder(complete(step, store))(start, stop)


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    return MemoryStore("best-of")


@pytest.mark.parametrize(("count", "mean"), [(2, 1 / math.sqrt(math.pi)), (3, 1.5 / math.sqrt(math.pi))])
def test_the_best_of_n_is_the_largest_of_n_normals_where_the_ratio_rises_in_one_coordinate(
    store, count, mean
):
    x = rows(generate(count), store, 0, 400)["latent"].astype(float).reshape(-1, 2) / 0.5
    assert x[:, 0].mean() == pytest.approx(mean, abs=4 / math.sqrt(400))
    assert x[:, 1].mean() == pytest.approx(0.0, abs=4 / math.sqrt(400))
    assert x[:, 1].std() == pytest.approx(1.0, abs=4 / math.sqrt(800))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_one_of_them_is_the_sample_without_a_selection_under_every_sampler(store, sampler):
    plain = rows(generate(sampler=sampler), store)["latent"]
    best = rows(generate(2, sampler=sampler), store)
    same = (best["latent"] == plain).reshape(8, -1).all(axis=1)
    assert 0 < same.sum() < 8
    assert (best["latent"][~same, 0] > plain[~same, 0]).all()
    np.testing.assert_allclose(best["log_ratio"], (best["latent"][:, 0, 0, 0] - 0.1) * 0.8, atol=2e-3)


def test_samples_do_not_depend_on_shards_and_batches(store):
    guidance = (dg.EpsilonScaling(factor=1.01), dg.NetworkGuidance(network=OTHER, weight=2.0, sigma_min=1.0))
    for sampler in (SAMPLERS[0], dg.RK45()):
        step = generate(3, sampler=sampler, guidance=guidance)
        whole, small = rows(step, store, 0, 12), step.model_copy(update={"batch_size": 5})
        parts = [rows(small, store, *ends) for ends in ((0, 5), (5, 12))]
        for name, values in whole.items():
            np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]))
    assert len(set(whole["score_evaluations"])) > 1


def test_all_of_a_sample_s_images_have_its_class(tmp_path):
    """With networks that know classes, the sample without a selection is one of the candidates."""
    store = open_store(str(tmp_path / "root"))
    score = pretrained(tmp_path, "SongUNet", **SCORES["SongUNet"]).weights()
    head = discriminator(tmp_path, pretrained(tmp_path, "classifier", network=HEAD, num_classes=3)).weights()
    fields: dict[str, Any] = {"score": score, "sampler": dg.Heun(steps=3), "shard_size": 8}
    kinds = (None, dg.BestOf(discriminator=head, count=2), dg.Particles(discriminator=head, count=2))
    plain, *others = (rows(dg.Generate(selection=kind, **fields), store) for kind in kinds)
    assert set(plain["label"]) == {0, 1, 2}
    for columns in others:
        np.testing.assert_array_equal(columns["label"], plain["label"])
        difference = np.abs(columns["image"].astype(int) - plain["image"]).reshape(8, -1).max(axis=1)
        assert 0 < (difference <= 1).sum() < 8


def test_every_sample_records_the_evaluations_of_all_that_was_drawn_for_it(store):
    guidance = (dg.EpsilonScaling(factor=1.01), dg.NetworkGuidance(network=OTHER, weight=2.0, sigma_min=1.0))
    for sampler in (dg.Heun(steps=6), dg.RK45(tolerance=1e-2)):
        columns = rows(generate(3, sampler=sampler, guidance=guidance), store)
        assert isinstance(columns, MeasuredColumns) and columns.metrics["utilisation"] == 1.0
        assert set(columns["discriminator_evaluations"]) == {3}
        score, (scaled, second) = columns["score_evaluations"][0], columns["guide_evaluations"][0]
        assert 0 < second < score and scaled == 0  # scaling evaluates no network
    assert columns["score_evaluations"].dtype == np.int32
    assert rows(generate(3, sampler=dg.Heun(steps=6)), store)["score_evaluations"].tolist() == [33] * 8


def test_the_plan_counts_all_of_them(store):
    (state,) = plan(generate(4, sampler=dg.Heun(steps=6), shard_size=8)[:8], store)[-1:]
    assert [(work.network.name, work.use, work.times) for work in state.work] == [
        (MODEL.name, "forward", 8 * 4 * 11),
        (RATIO.name, "forward", 8 * 4),
    ]
    assert generate(4).title == "generate seed 3, best of 4"


def test_a_discriminator_of_clean_images_chooses_and_one_that_guides_is_doubted():
    chosen = dg.BestOf(discriminator=CLEAN.last())
    assert dg.Generate(score=SCORE.last(), selection=chosen).cautions() == []
    guidance = (dg.DiscriminatorGuidance(discriminator=DISC.last()),)
    for weights in (DISC.last(), DISC.epoch(1)):
        selection = dg.BestOf(discriminator=weights)
        (line,) = dg.Generate(score=SCORE.last(), guidance=guidance, selection=selection).cautions()
        assert "also guides as guidance.0.discriminator" in line


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: dg.BestOf(discriminator=RATIO, count=1), "expected 2 to 1,024 particles.*found 1.*plain"),
        (lambda: dg.BestOf(), "discriminator"),  # type: ignore[call-arg]
        (lambda: dg.BestOf(discriminator=SCORE), "Weights"),  # type: ignore[arg-type]
        (
            lambda: generate(2, sampler=dg.RK45(shared_block=4)),
            "expected a sampler that chooses step sizes per sample",
        ),
        (lambda: generate(2, seeding="edm"), 'expected "counter" with a selection'),
        (
            lambda: generate(0, selection=dg.BestOf(discriminator=MODEL)),
            "selection.discriminator: expected a TrainDiscriminator",
        ),
    ],
)
def test_mistakes_say_what_was_expected(build, says):
    with pytest.raises(ValueError, match=says):
        build()
