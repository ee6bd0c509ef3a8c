"""Discriminators and classifiers as recipes state them: rates, precision, times, and refusals when a recipe
is built."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from steps.streaming import sealed
from tiny import ENCODER, JUDGE, fakes, real

from dgflow import Generate, ImportImages, TrainClassifier, TrainDiscriminator, TrainScore
from dgflow.engine.root import Root
from dgflow.runtime.training.loop import train
from dgflow.specs.bound import Bound
from dgflow.steps.training.train_classifier import published_classifier
from dgflow.store.open import open_store

UNUSED = Path("images.npz")


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


def test_workers_with_a_slot_or_two_have_the_losses_of_the_whole_batch(store):
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 255, (40, 8, 8, 1)).astype(np.uint8) for _ in range(2)]
    rows = [
        sealed(store, {"label": np.zeros(40, np.int64), "image": each}, 16, name=f"{n}")
        for n, each in enumerate(pictures)
    ]
    images = ImportImages(source="unused.npz", num_classes=2, image_size=8, channels=1)[:40]
    step = TrainDiscriminator(real=images, fake=images, network=ENCODER, batch_size=6)
    whole = step.training_task(Bound({"real": rows[0], "fake": rows[1]}))
    with torch.no_grad():
        torch.manual_seed(0)
        for parameter in whole.network.parameters():  # fresh heads end in zeros
            parameter.add_(0.05 * torch.randn_like(parameter))
        for workers in (2, 3, 6):
            for number in (0, 1, 40):
                expected = whole.loss(whole.network, torch.arange(6), number)
                parts = [
                    whole.loss(whole.network, slots, number) for slots in torch.arange(6).split(6 // workers)
                ]
                torch.testing.assert_close(torch.cat(parts), expected)
    for each in whole.data:
        each.close()


def test_threads_end_with_the_training(store):
    before = set(threading.enumerate())
    image = np.random.default_rng(0).integers(0, 255, (32, 8, 8, 1)).astype(np.uint8)
    rows = sealed(store, {"label": np.zeros(32, np.int64), "image": image}, 8)
    images = ImportImages(source="unused.npz", num_classes=2, image_size=8, channels=1)
    step = TrainClassifier(real=images[:32], network=JUDGE, batch_size=16, epochs=2, held_out=0.25)
    task = step.training_task(Bound({"real": rows}))
    steps = Root(store).step_store(step)
    train(task, steps, {}, epochs=2)
    assert set(threading.enumerate()) == before
    metrics = [steps.receipt(key).metrics for key in steps.done("epochs", {}).values()]
    assert all(0 <= each["data_wait"] <= 1 for each in metrics)


def test_the_annealed_rate_falls_linearly_to_nothing_and_is_what_the_optimizer_used(store):
    image = np.random.default_rng(0).integers(0, 255, (32, 8, 8, 1)).astype(np.uint8)
    rows = sealed(store, {"label": np.zeros(32, np.int64), "image": image}, 8)
    images = ImportImages(source="unused.npz", num_classes=2, image_size=8, channels=1)
    step = TrainClassifier(
        real=images[:32], network=JUDGE, batch_size=16, epochs=3, held_out=0.0, anneal=8, learning_rate=0.1
    )
    assert [step.learning_rate_at(number) for number in (0, 2, 4, 8)] == [
        0.1,
        pytest.approx(0.075),
        pytest.approx(0.05),
        0.0,
    ]
    task, used = step.training_task(Bound({"real": rows})), []
    task.optimizer.register_step_pre_hook(
        lambda optimizer, _args, _options: used.append(optimizer.param_groups[0]["lr"])
    )
    train(task, Root(store).step_store(step), {}, epochs=3)
    assert used == pytest.approx([0.1 * (1 - number / 8) for number in range(6)])


def test_more_steps_than_the_rate_lasts_are_refused():
    images = real(UNUSED)[:64]
    with pytest.raises(ValidationError, match="expected at most 8 steps.*found 9: 3 epochs of 3"):
        TrainClassifier(real=images, batch_size=16, epochs=3, anneal=8, held_out=0.25)


def test_the_published_classifier_has_the_papers_settings():
    images = ImportImages(source="unused.npz", num_classes=1000, image_size=32)[:1_281_167]
    step = published_classifier(images, ENCODER)
    assert (step.learning_rate, step.weight_decay, step.batch_size, step.precision) == (
        3e-4,
        0.05,
        256,
        "bfloat16",
    )
    assert step.epochs * step.steps_per_epoch == step.anneal == 300_000
    assert step.steps_per_epoch == 10_000
    assert (step.noise, step.flip) == ("linear_vp", True)


@pytest.mark.parametrize("kind", ["classifier", "discriminator"])
def test_bfloat16_activations_train_float32_weights_to_about_the_same_loss(store, kind):
    random = np.random.default_rng(0)
    rows = [
        sealed(
            store,
            {
                "label": np.zeros(64, np.int64),
                "image": random.integers(low, low + 120, (64, 8, 8, 1)).astype(np.uint8),
            },
            16,
            name=name,
        )
        for name, low in (("0", 0), ("1", 100))
    ]
    images = ImportImages(source="unused.npz", num_classes=2, image_size=8, channels=1)[:64]
    losses = []
    for precision in ("float32", "bfloat16"):
        if kind == "classifier":
            step = TrainClassifier(
                real=images, network=JUDGE, batch_size=16, epochs=2, noise="linear_vp", precision=precision
            )
        else:
            step = TrainDiscriminator(
                real=images, fake=images, network=ENCODER, batch_size=16, epochs=2, precision=precision
            )
        task = step.training_task(Bound({"real": rows[0], "fake": rows[1]}))
        steps = Root(store).step_store(step)
        train(task, steps, {}, epochs=2)
        assert all(value.dtype == torch.float32 for value in task.network.parameters())
        losses.append(
            [steps.receipt(key).metrics["train_loss"] for _, key in sorted(steps.done("epochs", {}).items())]
        )
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], abs=0.02)


def test_too_few_fakes_are_refused_when_the_recipe_is_built():
    images = real(UNUSED)
    with pytest.raises(
        ValidationError,
        match=r"expected at least 32 to train on besides a share of 0.1 to hold out .*, found 35 rows",
    ):
        TrainDiscriminator(real=images[:64], fake=fakes(UNUSED)[:35], batch_size=64)
    TrainDiscriminator(real=images[:64], fake=fakes(UNUSED)[:36], batch_size=64)
    with pytest.raises(ValidationError, match="found 20 rows; take a larger slice"):
        TrainDiscriminator(real=images[:20], fake=fakes(UNUSED)[:64], batch_size=64)
    with pytest.raises(
        ValidationError,
        match="expected at least one to train on besides a share of 0.1 to hold out in import-images, "
        "found 4",
    ):
        TrainScore(real=images[:4])


def test_classes_of_real_and_fake_need_to_agree_only_where_the_discriminator_is_told_them():
    unconditional = TrainScore(real=real(UNUSED)[:64])
    fake = Generate(score=unconditional.last())[:64]
    three = ImportImages(source="others.npz", num_classes=3, image_size=8, channels=1)[:64]
    with pytest.raises(
        ValidationError, match="expected fakes of the real ones' 3 classes, found 2; use conditional=False"
    ):
        TrainDiscriminator(real=three, fake=fake, batch_size=16)
    TrainDiscriminator(real=three, fake=fake, batch_size=16, conditional=False)
    larger = ImportImages(source="others.npz", num_classes=2, image_size=16, channels=1)[:64]
    with pytest.raises(ValidationError, match="1 channels and 16 pixels per side, found 1 and 8"):
        TrainDiscriminator(real=larger, fake=fake, batch_size=16)


def test_published_times_are_log_uniform_from_time_1e_5_to_1(store):
    """Half of the draws lie below the median 0.39, and 31.8 % below sigma(0.01) = 0.0447, as computed from
    the published formula."""
    image = np.random.default_rng(0).integers(0, 255, (64, 8, 8, 1)).astype(np.uint8)
    rows = sealed(store, {"label": np.zeros(64, np.int64), "image": image}, 32)
    images = ImportImages(source="unused.npz", num_classes=2, image_size=8, channels=1)[:64]
    step = TrainDiscriminator(
        real=images, fake=images, network=ENCODER, batch_size=32, held_out=0.0, times="importance"
    )
    task, told = step.training_task(Bound({"real": rows, "fake": rows})), []

    class Listening(torch.nn.Module):
        def forward(self, x, times, labels):
            told.append(times)
            return torch.zeros(len(x))

    for number in range(64):
        task.loss(Listening(), torch.arange(32), number)
    tau = torch.cat(told)
    assert (tau.min() > 1e-5, tau.max() < 1) == (True, True)
    assert abs((tau < 0.114).float().mean() - 0.5) < 0.045  # four standard errors of 2048
    assert abs((tau < 0.01).float().mean() - 0.318) < 0.042
    for each in task.data:
        each.close()
