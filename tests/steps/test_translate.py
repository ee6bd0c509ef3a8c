"""Translation of images between domains: closed forms in the plane, the source image, label and noise of each
result, cost, and refusals."""

from __future__ import annotations

import math
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import torch
from inprocess import complete
from steps.toy_networks import HIERARCHICAL, SCORES, SD, pretrained

import dgflow as dg
from dgflow.diffusion import noise
from dgflow.diffusion.times import sigma_from_tau
from dgflow.engine.plan import plan
from dgflow.specs.bound import Bound
from dgflow.specs.spec import Grid
from dgflow.steps.pixels import clean_column, clean_images
from dgflow.store.memory import MemoryStore
from dgflow.store.shards import Columns

HALF = 2.0**-11  # largest relative error of float16
TARGET = dg.GaussianMixture(means=((1.0, -0.5),), stds=(0.6,), weights=(1.0,))
WRONG = dg.GaussianMixture(means=((0.2, 0.4),), stds=(0.9,), weights=(1.0,))
SOURCE = dg.MixturePoints(mixture=dg.GaussianMixture(means=((-2.0, 0.0),), stds=(0.3,), weights=(1.0,)))
TAU = 0.35
SIGMA = sigma_from_tau(TAU)


def score(mixture: dg.GaussianMixture) -> Any:
    return dg.ClosedForm(network=dg.MixtureScore(mixture=mixture)).weights()


def translate(mixture: dg.GaussianMixture = TARGET, **fields: Any) -> dg.Translate:
    fields = {"source": SOURCE[100:140], "start": TAU, "sampler": dg.Heun(steps=120), "seed": 7} | fields
    return dg.Translate(score=score(mixture), **fields)


def made(step: dg.Translate, start: int = 0, stop: int | None = None) -> tuple[Columns, Columns]:
    """Returns rows of a step, and those of its source."""
    inputs = complete(step.all(), MemoryStore(uuid4().hex))
    stop = step.length if stop is None else stop
    return step.shard_builder(inputs)(start, stop), inputs.rows("source", None, start, stop)


def flow(points: np.ndarray, target: dg.GaussianMixture, first: int = 0) -> np.ndarray:
    """Returns the points [N, 2] at the end of the flow of a single Gaussian, with the noise of seed 7."""
    index = torch.arange(first, first + len(points))
    z = noise.standard_normal(7, index, (2, 1, 1), step=0, draw=noise.LATENT)[:, :, 0, 0].numpy()
    mean, std = np.array(target.means[0]), target.stds[0]
    return mean + (points + SIGMA * z - mean) * std / math.sqrt(std**2 + SIGMA**2)


def points(rows: Columns) -> np.ndarray:
    return rows["latent"][:, :, 0, 0].astype(float)


def test_a_translation_is_the_flow_of_its_own_source_point_and_noise():
    rows, source = made(translate(), 11, 29)
    assert rows["index"].tolist() == list(range(11, 29)) and (rows["label"] == -1).all()
    expected = flow(points(source), TARGET, first=11)
    np.testing.assert_allclose(points(rows), expected, rtol=2 * HALF, atol=2e-3)


def test_the_exact_ratio_guides_a_wrong_score_to_the_targets_own_translations():
    ratio = dg.ClosedForm(network=dg.MixtureRatio(real=TARGET, model=WRONG)).weights()
    guide = dg.DiscriminatorGuidance(discriminator=ratio, weight=1.0, second_order_weight=1.0, tau_min=0.0)
    guided, source = made(translate(WRONG, guidance=(guide,)))
    np.testing.assert_allclose(points(guided), flow(points(source), TARGET), rtol=2 * HALF, atol=2e-3)
    unguided, _ = made(translate(WRONG))
    assert abs(points(unguided) - points(guided)).mean() > 0.2
    assert guided["log_ratio"].shape == (40,) and np.isfinite(guided["log_ratio"]).all()


@pytest.mark.parametrize("sampler", [dg.DDPM(respacing="20"), dg.Heun(S_churn=10, steps=9)])
def test_rows_do_not_depend_on_shards_and_batches(sampler):
    whole, _ = made(translate(sampler=sampler))
    step = translate(sampler=sampler, batch_size=3, shard_size=8)
    inputs = complete(step.all(), MemoryStore(uuid4().hex))
    parts = [step.shard_builder(inputs)(first, first + 8) for first in range(0, 40, 8)]
    for name in whole:
        assert (whole[name] == np.concatenate([part[name] for part in parts])).all()
    other, _ = made(translate(sampler=sampler, seed=8))
    assert (other["latent"] != whole["latent"]).any(axis=(1, 2, 3)).all()


def test_an_image_that_is_hardly_noised_comes_back(tmp_path):
    """The network is untrained; the test shows that scaling, order of axes, pairing and labels are right."""
    pixels = np.random.default_rng(1).integers(0, 256, (12, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "images.npz", image=pixels, label=np.arange(12) % 3)
    images = dg.ImportImages(source=str(tmp_path / "images.npz"), num_classes=3, image_size=8)
    step = dg.Translate(
        source=images[2:11],
        score=pretrained(tmp_path, "score", **SCORES["SongUNet"]).weights(),
        start=0.002,
        sampler=dg.Heun(steps=6),
        batch_size=4,
    )
    rows, read = made(step)
    assert rows["image"].dtype == np.uint8 and rows["image"].shape == (9, 8, 8, 3)
    sigma = 127.5 * sigma_from_tau(0.002)  # in grey levels
    assert abs(rows["image"].astype(int) - read["image"]).mean() < 2 * sigma
    assert (rows["label"] == read["label"]).all() and len(set(read["label"].tolist())) == 3

    of_class_1, _ = made(step.model_copy(update={"labels": 1}))
    assert (of_class_1["label"] == 1).all()
    same = (of_class_1["image"] == rows["image"]).all(axis=(1, 2, 3))
    assert same[read["label"] == 1].all() and not same[read["label"] != 1].all()


def test_latents_of_an_encoder_are_translated_from_the_image_as_it_is(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (6, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "images.npz", image=pixels)
    images = dg.ImportImages(source=str(tmp_path / "images.npz"), num_classes=0, image_size=16)
    vae = pretrained(tmp_path, "vae", network=HIERARCHICAL, image_size=16).weights()
    encoded = dg.Encode(images=images[:6], vae=vae, draws=2)
    network: dict[str, Any] = {**SCORES["LSGMPrior"], "image_size": 8}
    score = pretrained(tmp_path, "prior", **network).weights()
    rows, read = made(dg.Translate(source=encoded.all(), score=score, start=1e-4))
    assert rows["latent"].shape == (6, 6, 8, 8) and read["latent"].shape == (6, 4, 6, 8, 8)
    assert abs(rows["latent"].astype(float) - read["latent"][:, 0]).mean() < 2 * sigma_from_tau(1e-4)


def test_the_clean_samples_of_every_kind_of_step():
    images = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
    assert clean_column(IMAGES) == "image" and clean_column(LATENTS) == "mean"
    scaled = clean_images({"image": images})
    assert scaled.dtype == torch.float64 and scaled.shape == (2, 3, 2, 2)
    assert float(scaled[1, 2, 0, 1]) == int(images[1, 0, 1, 2]) / 127.5 - 1
    mean = np.ones((2, 4, 3, 3), np.float16)
    assert torch.equal(clean_images({"mean": mean}), torch.ones(2, 4, 3, 3, dtype=torch.float64))


def test_a_plan_counts_the_evaluations_behind_the_start():
    edm = dg.official("edm-cifar10-32x32-uncond-vp")
    source = dg.ImportImages(source="/nowhere", num_classes=10, image_size=32)[:1_000]
    fields: dict[str, Any] = {"source": source, "score": edm, "labels": "dropped"}
    # 8 of the 18 levels of equation 5 lie below 1.2342: two evaluations for each, and one in the last step.
    grids: dict[Grid, int] = {"tail": 17, "whole": 35}
    for grid, each in grids.items():
        step = dg.Translate(start=0.3, sampler=dg.Heun(steps=18), grid=grid, **fields)
        (row,) = [row for row in plan(step.all(), MemoryStore(uuid4().hex)) if row.step.kind == "translate"]
        assert row.evaluations == 1_000 * each
        assert [work.times for work in step.work(1_000)] == [1_000 * each]
    steps = dg.Translate(start=0.3, sampler=dg.DDIM(respacing="100", eta=1.0), **fields)
    (work,) = steps.work(1)
    assert work.times == pytest.approx(steps.network_evaluations(1), abs=1) and 29 <= work.times <= 32


def test_a_guide_is_counted_in_its_window_behind_the_start():
    edm = dg.official("edm-cifar10-32x32-uncond-vp")
    source = dg.ImportImages(source="/nowhere", num_classes=10, image_size=32)[:1_000]
    guidance = dg.edm_gpp("cifar10-uncond", dg.official("dg-cifar10-uncond"))
    step = dg.Translate(source=source, score=edm, start=0.3, guidance=guidance, sampler=dg.Heun(steps=18))
    whole = dg.Generate(score=edm, guidance=guidance, sampler=dg.Heun(steps=18))
    own, guide = (work.times for work in step.work(1)[:2])
    assert own == 17 and 0 < guide < whole.work(1)[1].times


IMAGES = dg.ImportImages(source="images.npz", num_classes=3, image_size=8, channels=1)
LATENTS = dg.Encode(
    images=dg.ImportImages(source="images.npz", num_classes=3, image_size=16)[:50],
    vae=dg.Pretrained(source="vae.safetensors", network=SD, image_size=16).weights(),
)
CONDITIONAL = dg.TrainScore(real=IMAGES[:50]).last()
PLAIN = dg.TrainScore(real=IMAGES[:50], conditional=False).last()


class Euler(dg.Heun):
    """A user's own sampler that accepts no start."""

    def sample(self, model, latents, class_labels, terms, noise):  # pyright: ignore
        raise AssertionError("refused before it samples")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"source": LATENTS.all()}, "expected images, as the score network samples them, found the latents"),
        ({"score": score(TARGET)}, "expected latents, as the score network samples them, found the images"),
        (
            {"source": dg.ImportImages(source="x", num_classes=3, image_size=16, channels=1)[:50]},
            "1 channels of 8 pixels per side, found 1 channels of 16",
        ),
        (
            {"source": dg.ImportImages(source="x", num_classes=5, image_size=8, channels=1)[:50]},
            "source images of the 3 classes.*found 5: name the class of the results",
        ),
        ({"labels": "dropped"}, "labels='kept' or a class from 0 to 2.*found 'dropped'"),
        ({"labels": 3}, "a class from 0 to 2, found 3"),
        ({"labels": 1, "score": PLAIN}, "'kept' or 'dropped'.*found 1"),
        ({"start": 0.99}, "up to 0.9335"),
        ({"start": 0.0}, "start"),
        ({"sampler": dg.RK45(tau_max=0.4)}, "up to tau_max 0.4, found 0.5"),
        ({"sampler": Euler()}, "Euler, whose sample\\(\\) takes no start"),
    ],
)
def test_what_cannot_be_translated_is_refused_when_the_recipe_is_built(fields, says):
    known: dict[str, Any] = {"source": IMAGES[:50], "score": CONDITIONAL, "start": 0.5}
    with pytest.raises(ValueError, match=says):
        dg.Translate(**(known | fields))


def test_a_start_outside_the_networks_range_is_refused_before_any_shard():
    """Variance-exploding networks have noise levels from 0.02 to 100."""
    score = dg.Pretrained(
        source="x.pt", network=dg.SongUNet(precond="ve"), image_size=8, channels=1, num_classes=3
    )
    step = dg.Translate(source=IMAGES[:50], score=score.weights(), start=0.002)
    with pytest.raises(ValueError, match=r"above 0\.02 and at most 80.*found 0\.015.*time 0\.002"):
        step.check_source(Bound())


def test_classes_of_results():
    kept = dg.Translate(source=IMAGES[:50], score=PLAIN, start=0.5)
    assert kept.shape.num_classes == 3 and kept.classes == 0
    assert kept.model_copy(update={"labels": "dropped"}).shape.num_classes == 0
    with pytest.raises(ValueError, match="within the 50 samples"):
        plan(kept[:51], MemoryStore(uuid4().hex))
