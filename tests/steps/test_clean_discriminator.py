"""Discriminators of clean samples: their training, their refusals, and the score that they give."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from inprocess import complete
from scipy.integrate import quad
from steps.identities import DISC, FAKES, JUDGE, REAL, SCORE
from torch import Tensor

import dgflow as dg
from dgflow.cli.export_weights import export_weights, weights_of
from dgflow.engine.execute import result_of
from dgflow.engine.root import Root
from dgflow.specs.bound import Bound, BoundWeights
from dgflow.specs.figures import Table
from dgflow.specs.step import Weights, here
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.testing.smoke import smoke

STD, APART = 0.5, (0.6, -0.8)  # |APART| = 1
DATA = dg.GaussianMixture(means=((0.0, 0.0),), stds=(STD,), weights=(1.0,))
MODEL = dg.GaussianMixture(means=(APART,), stds=(STD,), weights=(1.0,))
KL = 1 / (2 * STD**2)
POINTS, OTHERS = dg.MixturePoints(mixture=DATA, shard_size=4_000), dg.MixturePoints(mixture=MODEL, seed=5)
EXACT = dg.ClosedForm(network=dg.MixtureRatio(real=DATA, model=MODEL)).weights()
CLEAN = DISC.model_copy(update={"noise": "none", "features": JUDGE.last()})
REFINED = dg.DiscriminatorGuidance(discriminator=DISC.last())


def exact_log_ratio(points: Tensor) -> Tensor:
    """Returns log N(x; 0, s^2) - log N(x; m, s^2) = (1 / 2 - m x) / s^2 with |m| = 1."""
    return (0.5 - points @ torch.tensor(APART)) / STD**2


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    return open_store(str(tmp_path_factory.mktemp("clean") / "root"))


@pytest.fixture(scope="module")
def trained(store: ObjectStore) -> dg.TrainDiscriminator:
    """Returns a discriminator trained on points, and the metrics of each epoch."""
    step = dg.TrainDiscriminator(
        real=POINTS[:4_000],
        fake=OTHERS.model_copy(update={"shard_size": 4_000})[:4_000],
        network=dg.Perceptron(width=32, layers=2),
        noise="none",
        epochs=8,
        batch_size=256,
        learning_rate=5e-3,
    )
    complete(step, store)
    return step


def loaded(weights: Weights, store: ObjectStore) -> tuple[BoundWeights, Any]:
    item = Root(store).item(weights, complete(weights, store))
    assert isinstance(item, BoundWeights)
    return item, Bound({"it": item}).network("it")


def test_its_logit_is_the_log_ratio_of_clean_samples(trained: dg.TrainDiscriminator, store: ObjectStore):
    _, network = loaded(trained.best(), store)
    points = torch.from_numpy(np.random.default_rng(1).normal(0.0, STD, (2_000, 2))).float()
    points[1_000:] += torch.tensor(APART)
    logit = network(points[:, :, None, None], torch.zeros(len(points)))
    error = (logit - exact_log_ratio(points)).square().mean().sqrt()
    assert error < 0.15 * exact_log_ratio(points).std()


def test_its_held_out_loss_is_near_the_least_there_can_be(trained: dg.TrainDiscriminator, store: ObjectStore):
    """Real samples have log-ratios of N(KL, 2 KL); the loss of fakes is equal by symmetry."""
    item, _ = loaded(trained.best(), store)
    width = math.sqrt(2 * KL)

    def of(value: float) -> float:
        density = math.exp(-(((value - KL) / width) ** 2) / 2) / (width * math.sqrt(2 * math.pi))
        return density * math.log1p(math.exp(-value))

    least, _ = quad(of, -12, 20)
    metrics = item.receipt.metrics
    held = trained.held_out_items
    assert held == 2 * 400 and abs(metrics["held_out_loss"] - least) < 0.06
    assert metrics["calibration_error"] < 0.06
    right = 0.5 * (1 + math.erf(KL / width / math.sqrt(2)))
    assert abs(metrics["held_out_accuracy"] - right) < 4 * math.sqrt(right * (1 - right) / held)
    assert "by_sigma" not in metrics


class Spy(torch.nn.Module):
    """Returns logits of 0, and records its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        self.asked.append((x, time, labels))
        return x.new_zeros(len(x))


@pytest.fixture(scope="module")
def on_images(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> dg.TrainDiscriminator:
    """Returns a discriminator on the frozen features of a classifier of clean images."""
    images = tiny.write_images(tmp_path_factory.mktemp("images") / "images.npz")
    features = dg.TrainClassifier(real=tiny.real(images)[:64], network=tiny.ENCODER, epochs=1, batch_size=16)
    fields = {"noise": "none", "features": features.last(), "epochs": 1}
    return tiny.discriminator(images).model_copy(update=fields)


def test_it_sees_the_images_themselves_at_time_0(on_images: dg.TrainDiscriminator, store: ObjectStore):
    spy, task = Spy(), on_images.training_task(complete(on_images, store))
    losses = task.loss(spy, torch.arange(16), 0)
    task.measure(spy, torch.arange(task.held_out))
    for x, time, labels in spy.asked:
        pixels = (x.double() + 1) * 127.5
        torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-4)
        assert not time.any() and labels is not None
    assert task.held_out == 32 and [len(x) for x, *_ in spy.asked] == [16, 32]
    torch.testing.assert_close(losses, torch.full((16,), math.log(2)))
    for each in task.data:
        each.close()


def test_a_batch_has_the_same_losses_for_any_number_of_workers(
    on_images: dg.TrainDiscriminator, store: ObjectStore
):
    task = on_images.training_task(complete(on_images, store))
    task.network.eval()
    with torch.no_grad():
        whole = task.loss(task.network, torch.arange(16), 0)
        parts = [task.loss(task.network, slots, 0) for slots in torch.arange(16).split([2, 6, 8])]
    torch.testing.assert_close(torch.cat(parts), whole)
    for each in task.data:
        each.close()


def test_frozen_features_of_clean_images_stay_as_they_were(
    on_images: dg.TrainDiscriminator, store: ObjectStore
):
    assert on_images.features is not None
    _, classifier = loaded(on_images.features, store)
    item, network = loaded(on_images.last(), store)
    frozen = network.features.state_dict()
    assert all(torch.equal(value, frozen[name]) for name, value in classifier.state_dict().items())
    x, labels = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 1])
    assert network(x, torch.zeros(3), labels).shape == (3,)
    assert set(item.receipt.metrics) >= {"held_out_loss", "held_out_accuracy", "calibration_error"}


def test_another_loss_has_the_cross_entropy_beside_it(on_images: dg.TrainDiscriminator, store: ObjectStore):
    step = on_images.model_copy(update={"loss": "lsif"})
    metrics = loaded(step.best("held_out_bce"), store)[0].receipt.metrics
    assert metrics["held_out_bce"] > 0 > metrics["held_out_loss"]


def test_features_that_know_no_noise_are_doubted_below_a_discriminator_that_does():
    (caution,) = CLEAN.model_copy(update={"noise": "linear_vp"}).cautions()
    assert "a classifier of clean images, which has seen no noise" in caution
    assert CLEAN.cautions() == DISC.cautions() == []


def test_its_title_says_so_and_the_plan_counts_one_level():
    assert CLEAN.title == "train-discriminator of clean images"
    times = {work.use: work.times for work in CLEAN.work(1)}
    assert times["forward"] == CLEAN.held_out_items == 20
    assert DISC.held_out_items == 8 * 20


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: dg.Generate(score=SCORE.last(), guidance=(by(CLEAN),)), "guidance.0.discriminator"),
        (lambda: dg.Generate(score=SCORE.last(), guidance=(by(DISC, CLEAN),)), "guidance.0.discriminator.1"),
        (
            lambda: dg.Gain(score=SCORE.last(), discriminator=CLEAN.last(), real=REAL[100:200]),
            "discriminator",
        ),
        (
            lambda: dg.LossesByLevel(
                score=SCORE.last(),
                discriminators={"a": CLEAN.last()},
                real=REAL[100:200],
                fake=FAKES[100:200],
            ),
            "discriminator",
        ),
        (
            lambda: (
                dg.LogRatioPath(arms={"a": FAKES[:100]}, discriminator=CLEAN.last(), real=REAL[100:200]).reads
            ),
            "guidance.0.discriminator",
        ),
        (
            lambda: SCORE.model_copy(update={"weighting": dg.RatioWeighting(discriminator=CLEAN.last())}),
            "weighting.discriminator",
        ),
    ],
)
def test_it_is_refused_along_noise_levels(make: Any, field: str):
    with pytest.raises(
        ValueError,
        match=f"{field}: expected a network of noisy samples.* found train-discriminator of clean images",
    ):
        make()


def test_an_exported_one_is_read_as_what_it_is_alone(
    trained: dg.TrainDiscriminator, store: ObjectStore, tmp_path: Path
):
    address, out = weights_of(f"{store.url}/{trained.name}"), str(tmp_path / "clean.safetensors")
    assert address is not None
    export_weights(*address, out, "last")
    head = trained.network
    fields: dict[str, Any] = {"source": out, "image_size": 1, "channels": 2}
    clean = dg.Pretrained(network=dg.Discriminator(head=head, noise="none"), **fields)
    assert clean.compute(Bound(), here, store)
    for network, says in (
        (dg.Discriminator(head=head), "noise is 'none' in the file and 'linear_vp' in the recipe"),
        (dg.Discriminator(head=head, process="edm"), "process is 'linear-vp' in the file and 'edm'"),
    ):
        with pytest.raises(ValueError, match=says):
            dg.Pretrained(network=network, **fields).compute(Bound(), here, store)


def test_a_classifier_of_clean_images_is_refused_as_a_guide():
    with pytest.raises(
        ValueError, match=r"guidance\.0\.classifier: expected a network of noisy samples.* found"
    ):
        dg.Generate(score=SCORE.last(), guidance=(dg.ClassifierGuidance(classifier=JUDGE.last()),))


def by(*trainings: dg.TrainDiscriminator) -> dg.DiscriminatorGuidance:
    first, *others = (training.last() for training in trainings)
    return dg.DiscriminatorGuidance(discriminator=(first, *others) if others else first)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"sigma_min": 0.1},
            'sigma_min: expected none with noise="none", which has no noise levels, found 0.1',
        ),
        ({"sigma_max": 10.0}, "sigma_max: expected none"),
        ({"times": "importance"}, "times: .*found 'importance': leave it out"),
        ({"process": "edm", "features": None}, "process: .*found 'edm'"),
        (
            {"loss": "bce+gradient", "score": SCORE.last()},
            'loss: expected "bce", "lsif" or "ukl" with noise="none"',
        ),
        ({"gain_of": SCORE.last()}, 'gain_of: .*found train-score: leave it out, or use noise="linear_vp"'),
    ],
)
def test_settings_of_noise_levels_are_refused(fields: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        CLEAN.model_copy(update=fields)


def test_a_discriminator_of_clean_samples_from_elsewhere_is_known_as_one():
    network = dg.Discriminator(noise="none")
    elsewhere = dg.Pretrained(source="d.safetensors", network=network, image_size=8, channels=1)
    with pytest.raises(ValueError, match="expected a network of noisy samples"):
        dg.Generate(
            score=SCORE.last(), guidance=(dg.DiscriminatorGuidance(discriminator=elsewhere.weights()),)
        )
    with pytest.raises(ValueError, match='expected process="linear-vp" with noise="none", found "edm"'):
        dg.Discriminator(noise="none", process="edm")


def scored(discriminator: Any, store: ObjectStore, **fields: Any) -> dict[str, Any]:
    arms = {"model": (OTHERS[:2_000], OTHERS[2_000:4_000]), "data": (POINTS[10_000:11_200],)}
    step = dg.MeanLogRatio(arms=arms, discriminator=discriminator, real=POINTS[4_000:6_000], **fields)
    complete(step, store)
    content = result_of(step, store)
    (table,) = step.figures(content)
    assert isinstance(table, Table) and [row[0] for row in table.rows] == ["real images", "model", "data"]
    assert step.compared(content)["model"]["log_ratio"] == json.loads(content)["arms"]["model"]["log_ratio"]
    return json.loads(content)


def test_the_mean_log_ratio_of_exact_samples_is_the_divergence(store: ObjectStore):
    found = scored(EXACT, store)
    for values, expected in (
        (found["real"] | {"error": found["real"]["error"]}, KL),
        (first(found, "data"), KL),
        (first(found, "model"), -KL),
    ):
        assert abs(values["log_ratio"] - expected) < 4 * values["error"]
        # Log-ratios of both kinds have the variance 2 KL.
        count = 1_200 if values == first(found, "data") else 2_000
        assert values["error"] == pytest.approx(math.sqrt(2 * KL / count), rel=0.1)
    model = found["arms"]["model"]["log_ratio"]
    assert model["mean"] == pytest.approx(sum(model["per_seed"]) / 2) and len(model["errors"]) == 2
    above = 0.5 * (1 - math.erf(KL / math.sqrt(2 * KL) / math.sqrt(2)))
    assert found["arms"]["model"]["above"]["mean"] == pytest.approx(above, abs=0.02)


def first(found: dict[str, Any], name: str) -> dict[str, float]:
    arm = found["arms"][name]["log_ratio"]
    return {"log_ratio": arm["per_seed"][0], "error": arm["errors"][0]}


def test_a_trained_one_tells_the_datas_samples_from_the_models(
    trained: dg.TrainDiscriminator, store: ObjectStore
):
    found = scored(trained.best(), store)
    real, arms = found["real"]["log_ratio"], found["arms"]
    assert abs(arms["data"]["log_ratio"]["mean"] - real) < 0.3 < 0.7 * KL < real
    assert arms["model"]["log_ratio"]["mean"] < -0.7 * KL


def test_the_best_of_four_by_a_trained_one_is_scored_as_the_largest_of_four_log_ratios(
    trained: dg.TrainDiscriminator, store: ObjectStore
):
    """The model's samples have log-ratios of N(-KL, 2 KL); the maximum of four normal numbers has mean
    1.02938."""
    score = dg.ClosedForm(network=dg.MixtureScore(mixture=MODEL)).weights()
    chosen = dg.Generate(
        score=score,
        sampler=dg.Heun(steps=10, sigma_min=0.01, sigma_max=20),
        selection=dg.BestOf(count=4, discriminator=trained.best()),
        shard_size=800,
    )[:800]
    step = dg.MeanLogRatio(arms={"best": (chosen,)}, discriminator=EXACT, real=POINTS[4_000:4_100])
    complete(step, store)
    values = first(json.loads(result_of(step, store)), "best")
    assert abs(values["log_ratio"] - (-KL + 1.02938 * math.sqrt(2 * KL))) < 4 * values["error"] + 0.1
    with pytest.raises(ValueError, match="made without the discriminator that scores them"):
        step.model_copy(update={"discriminator": trained.best(), "arms": {"best": (chosen,)}})


def test_an_ensemble_scores_by_its_combination_and_batches_change_nothing(
    trained: dg.TrainDiscriminator, store: ObjectStore
):
    members = (trained.epoch(1), trained.epoch(8))
    alone = [scored(each, store)["real"]["log_ratio"] for each in members]
    both = scored(members, store)["real"]["log_ratio"]
    assert both == pytest.approx(sum(alone) / 2, rel=1e-6)
    assert scored(members, store, combine="probabilities")["real"]["log_ratio"] != both
    step = dg.MeanLogRatio(arms={"a": (OTHERS[:600],)}, discriminator=EXACT, real=POINTS[:600])
    small = step.model_copy(update={"batch_size": 70}).compute(complete(step, store), here, store)
    one, other = (json.loads(content) for content in (small, result_of(step, store)))
    assert one["real"] == pytest.approx(other["real"], rel=1e-6)
    assert first(one, "a") == pytest.approx(first(other, "a"), rel=1e-6)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"real": REAL[50:150]},
            r"real: expected images that .*clean images was not trained on, found \[50:150\]",
        ),
        ({"arms": {"a": (FAKES[:50],)}}, r"arms.a.0: expected images that .* was not trained on"),
        ({"real": REAL[100:101]}, "real: expected two samples or more"),
        (
            {
                "arms": {"a": (dg.Generate(score=SCORE.last(), guidance=(REFINED,), seed=2)[:9],)},
                "discriminator": DISC.last(),
            },
            "arms.a.0: expected samples that were made without the discriminator that scores .*train another",
        ),
        (
            {"arms": {"a": (dg.Generate(score=SCORE.model_copy(update={"conditional": False}).last())[:9],)}},
            "arms.a.0: expected samples with labels, .* which have none: .*conditional=False",
        ),
        ({"arms": {"a": (POINTS[:9],)}}, "arms.a.0: expected samples of the form of the real ones"),
        ({"discriminator": JUDGE.last()}, "discriminator: expected a TrainDiscriminator or a Pretrained"),
        (
            {"discriminator": DISC.model_copy(update={"process": "edm", "features": None}).last()},
            "discriminator: expected a discriminator that can be evaluated on clean samples",
        ),
    ],
)
def test_a_score_that_would_mean_nothing_is_refused(fields: dict[str, Any], says: str):
    usual: dict[str, Any] = {
        "arms": {"a": (FAKES[100:200],)},
        "discriminator": CLEAN.last(),
        "real": REAL[100:200],
    }
    with pytest.raises(ValueError, match=says):
        dg.MeanLogRatio(**usual | fields)


def test_real_images_that_features_were_trained_on_are_doubted():
    step = dg.MeanLogRatio(arms={"a": (FAKES[100:200],)}, discriminator=CLEAN.last(), real=REAL[100:200])
    assert step.cautions() == []
    features = JUDGE.model_copy(update={"real": REAL[:200], "held_out": 0.25}).last()
    clean = CLEAN.model_copy(update={"features": features})
    (line,) = step.model_copy(update={"discriminator": clean.last()}).cautions()
    assert "50 of the 100 real images are ones that the features" in line


def test_an_ensemble_is_of_clean_or_of_noisy_discriminators():
    clean = CLEAN.model_copy(update={"seed": 1, "features": None})
    noisy = DISC.model_copy(update={"features": None})
    with pytest.raises(ValueError, match=r"discriminator.1: expected a discriminator of clean samples"):
        dg.MeanLogRatio(
            arms={"a": (FAKES[100:200],)}, discriminator=(clean.last(), noisy.last()), real=REAL[100:200]
        )


def test_its_smoke_run_scores_images_that_the_toy_was_not_trained_on(tmp_path: Path):
    step = dg.MeanLogRatio(arms={"a": (FAKES[100:200],)}, discriminator=CLEAN.last(), real=REAL[100:200])
    toy = smoke(step, str(tmp_path)).target
    assert isinstance(toy, dg.MeanLogRatio) and toy.real.rows >= 2
    training = toy.term.guides[0].step
    assert isinstance(training, dg.TrainDiscriminator) and training.noise == "none"
