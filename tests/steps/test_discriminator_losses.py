"""The loss of a discriminator in its step: the metrics of an epoch, the value at chance, and the choice of an
epoch."""

import math

import pytest
import tiny
from inprocess import complete

import dgflow as dg
from dgflow.engine.root import Root
from dgflow.report.page import render
from dgflow.report.summary import summarise, table
from dgflow.steps.training.discriminator_metrics import CHANCE
from dgflow.store.open import open_store

HEAD = dg.Perceptron(width=8, layers=1)
EPOCHS = 2


@pytest.fixture(scope="module", params=["bce", "lsif", "ukl"])
def trained(request, tmp_path_factory):
    """Returns a discriminator of each loss, and the metrics of its epochs."""
    folder = tmp_path_factory.mktemp(request.param)
    step = tiny.discriminator(tiny.write_images(folder / "images.npz"), EPOCHS)
    step = step.model_copy(update={"network": HEAD, "loss": request.param, "learning_rate": 1e-6})
    store = open_store(str(folder / "root"))
    inputs = complete(step, store)
    steps = Root(store).step_store(step)
    done = sorted(steps.done("epochs", inputs.digests).items())
    return step, store, [steps.receipt(key).metrics for _, key in done]


def test_the_held_out_loss_of_a_head_that_knows_nothing_is_chance_in_its_own_units(trained):
    """The logit starts at 0, and a learning rate of 1e-6 keeps it there. By hand: log 2; (-1 + 1 / 2) / 2; (0
    + 1) / 2."""
    step, _, epochs = trained
    chance = {"bce": math.log(2), "lsif": -0.25, "ukl": 0.5}[step.loss]
    assert step.chance == CHANCE[step.loss] and step.chance.loss == chance
    for metrics in epochs:
        assert metrics["held_out_loss"] == pytest.approx(chance, abs=1e-4)
        assert all(level["loss"] == pytest.approx(chance, abs=1e-4) for level in metrics["by_sigma"])


def test_the_cross_entropy_is_recorded_beside_another_loss_and_chooses_an_epoch(trained):
    step, _, epochs = trained
    for metrics in epochs:
        assert ("held_out_bce" in metrics) == (step.loss != "bce")
        assert metrics.get("held_out_bce", math.log(2)) == pytest.approx(math.log(2), abs=1e-4)
    column = "held_out_loss" if step.loss == "bce" else "held_out_bce"
    best = step.best("held_out_bce")
    assert best.which == f"best:{column}"
    chosen = best.choose(dict(enumerate(epochs, start=1)))
    assert epochs[chosen - 1][column] == min(metrics[column] for metrics in epochs)


def test_the_page_draws_chance_of_the_loss_and_the_table_warns_of_a_discriminator_at_it(trained):
    step, store, _ = trained
    term = dg.DiscriminatorGuidance(discriminator=step.best())
    guided = dg.Generate(score=step.fake.step.score, sampler=dg.Heun(steps=3), guidance=(term,), shard_size=8)
    complete(guided[:8], store)
    words = step.chance.words
    assert f"chance, {words}" in render(guided[:8], store)
    assert f"is that of chance, {words} = {step.chance.loss:.4f}" in table(summarise(guided[:8], store))


def test_the_loss_is_identity_only_where_it_is_another():
    names = {loss: step_of(loss).name for loss in ("bce", "lsif", "ukl")}
    assert len(set(names.values())) == 3
    assert "loss" not in step_of("bce").document()["fields"]
    with pytest.raises(
        ValueError, match="'bce', 'lsif', 'ukl' or 'bce.gradient', found 'kl'; did you mean ukl"
    ):
        step_of("kl")


def step_of(loss) -> dg.TrainDiscriminator:
    real = dg.ImportImages(source="/nowhere", num_images=100, num_classes=2, image_size=8)
    return dg.TrainDiscriminator(real=real[:50], fake=real[50:100], batch_size=8, network=HEAD, loss=loss)
