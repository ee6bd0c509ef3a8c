"""TrainScore from given weights, and with weights of a discriminator."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny
import torch
from inprocess import complete
from torch import Tensor

import dgflow as dg
from dgflow.engine.root import Root
from dgflow.runtime.training.loop import train
from dgflow.specs.train_step import TrainStep
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.weights.tensors import load_weights, save_weights

SHAPE: Any = {"image_size": 8, "channels": 1}


class Place(NamedTuple):
    """A root with two epochs of a score network and one of a discriminator."""

    images: Path
    score: dg.TrainScore
    discriminator: dg.TrainDiscriminator
    store: ObjectStore

    def kept(self, step: TrainStep, epoch: int) -> dict[str, Tensor]:
        steps = Root(self.store).step_store(step)
        key = steps.done("epochs", complete(step, self.store).digests)[epoch]
        return dict(load_weights(steps.read(steps.receipt(key))))

    def metrics(self, step: TrainStep) -> list[dict[str, Any]]:
        steps = Root(self.store).step_store(step)
        done = steps.done("epochs", complete(step, self.store).digests)
        about_the_run = ("data_wait", "workers")
        receipts = [steps.receipt(key) for _, key in sorted(done.items())]
        return [
            {name: value for name, value in each.metrics.items() if name not in about_the_run}
            for each in receipts
        ]

    def further(self, **fields: Any) -> dg.TrainScore:
        return self.score.model_copy(update={"epochs": 1, "start": self.score.last(), **fields})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("further")
    images, store = tiny.write_images(folder / "images.npz"), open_store(str(folder / "root"))
    discriminator = tiny.discriminator(images, epochs=1)
    complete(discriminator, store)
    return Place(images, tiny.score(images), discriminator, store)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_weights_and_their_average_begin_with_those_that_are_given(place: Place):
    given = place.kept(place.score, 2)
    assert equal(place.kept(place.further(learning_rate=1e-30), 1), given)
    # Three steps of Adam at 1e-3 move each weight by up to 3e-3. With a half-life of 1e9 images the average
    # has not moved; with a half-life limited to 5 % of the images seen it would have.
    slow = place.kept(place.further(ema_halflife=10**9), 1)
    for name in given:
        torch.testing.assert_close(slow[name], given[name], rtol=0, atol=1e-7)
    quick = place.kept(place.further(ema_halflife=1), 1)
    assert max(float((quick[name] - given[name]).abs().max()) for name in given) > 1e-3


def test_a_training_from_given_weights_is_resumed_with_the_same_bits(place: Place):
    step = place.further(epochs=2)
    inputs = complete(place.further(), place.store)
    digests = []
    for name, stops in (("stopped", (1, 2)), ("undisturbed", (2,))):
        steps = Root(MemoryStore(name)).step_store(step)
        for epochs in stops:
            train(step.training_task(inputs), steps, inputs.digests, epochs=epochs)
        digests.append(steps.receipt(steps.done("epochs", inputs.digests)[2]).rows_sha256)
    assert digests[0] == digests[1]


def test_weights_of_a_file_can_be_trained_further(place: Place):
    file = place.images.parent / "published.safetensors"
    file.write_bytes(save_weights(place.kept(place.score, 1)))
    published = dg.Pretrained(source=str(file), network=place.score.network, num_classes=2, **SHAPE)
    begun = place.further(start=published.weights(), learning_rate=1e-30)
    assert equal(place.kept(begun, 1), place.kept(place.score, 1))


EDM2 = dg.EDM2UNet(
    model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(4,), channels_per_head=8
)


@pytest.mark.parametrize(
    ("network", "left"),
    [
        (dg.SongUNet(model_channels=8, channel_mult=(1,), augment_dim=9), "model.map_augment.weight"),
        (EDM2, "logvar_linear.weight"),
    ],
    ids=["augmentations", "uncertainty"],
)
def test_what_has_no_gradient_is_left_alone(place: Place, network: Any, left: str):
    step = place.score.model_copy(update={"network": network, "epochs": 1})
    task = step.training_task(complete(step, place.store))
    task.loss(task.network, torch.arange(4), 0).mean().backward()
    without = {name for name, value in task.network.named_parameters() if value.grad is None}
    frozen = {name for name, value in task.network.named_parameters() if not value.requires_grad}
    assert without == frozen == {left}
    for each in task.data:
        each.close()


def test_edm2_s_network_is_trained_at_unit_magnitude_and_then_further(place: Place):
    step = place.score.model_copy(
        update={"network": EDM2, "learning_rate": 1e-2, "epochs": 3, "ema_halflife": 16}
    )
    complete(step, place.store)
    losses = [metrics["held_out_loss"] for metrics in place.metrics(step)]
    assert losses[2] < 0.9 * losses[0]
    further = step.model_copy(update={"start": step.last(), "epochs": 1, "seed": 1})
    complete(further, place.store)
    for name, weight in place.kept(further, 1).items():
        if weight.ndim > 1 and name.startswith("unet"):
            torch.testing.assert_close(weight.square().mean(), torch.tensor(1.0), rtol=0.03, atol=0)


def test_weights_of_one_give_todays_loss_bit_for_bit(place: Place):
    ones = dg.RatioWeighting(discriminator=place.discriminator.last(), divergence="kl")
    plain, weighted = place.further(seed=6), place.further(seed=6, weighting=ones)
    assert equal(place.kept(plain, 1), place.kept(weighted, 1))
    (without,), (having,) = place.metrics(plain), place.metrics(weighted)
    assert having == without | {"held_out_weighted_loss": without["held_out_loss"], "held_out_weight": 1.0}


def test_a_ratio_changes_what_is_learned_and_leaves_the_comparable_loss_beside_it(place: Place):
    weighting = dg.RatioWeighting(discriminator=place.discriminator.last(), tau_min=0.0)
    step = place.further(seed=6, weighting=weighting)
    assert not equal(place.kept(step, 1), place.kept(place.further(seed=6), 1))
    (metrics,) = place.metrics(step)
    assert {"held_out_loss", "held_out_weighted_loss", "held_out_weight"} <= metrics.keys()
    assert step.best("held_out_weighted_loss").choose({1: metrics}) == 1


def test_a_batch_has_the_same_weighted_losses_for_any_number_of_workers(place: Place):
    step = place.further(weighting=dg.RatioWeighting(discriminator=place.discriminator.last(), tau_min=0.0))
    task = step.training_task(complete(step, place.store))
    task.network.eval()
    with torch.no_grad():
        whole = task.loss(task.network, torch.arange(16), 0)
        parts = [task.loss(task.network, slots, 0) for slots in torch.arange(16).split(4)]
    torch.testing.assert_close(torch.cat(parts), whole)
    for each in task.data:
        each.close()


def test_the_plan_counts_the_discriminator_once_for_each_image_that_is_weighted(place: Place):
    step = place.further(weighting=dg.RatioWeighting(discriminator=place.discriminator.last()))
    works = {(work.network.kind, work.use): work.times for work in step.work(5)}
    # 48 images in 3 batches of 16, and 16 held-out ones at 4 levels.
    assert works == {
        ("train-score", "train"): 240,
        ("train-score", "forward"): 320,
        ("train-discriminator", "forward"): 560,
    }


REFUSED = [
    (
        lambda score: {"network": dg.SongUNet(model_channels=16), "start": score.last()},
        r"expected weights of the network that is trained, SongUNet with the same fields, found "
        r"model_channels=8 for 16.*use network=start.step.network",
    ),
    (
        lambda score: {"network": dg.DhariwalUNet(), "start": score.last()},
        "expected weights of the network that is trained, DhariwalUNet with the same fields, found SongUNet",
    ),
    (
        lambda score: {"start": score.last(), "conditional": False},
        "expected weights of a network of 0 classes, found 2; use conditional=True",
    ),
    (
        lambda score: {
            "start": dg.Pretrained(
                source="a.safetensors", network=score.network, image_size=16, channels=1, num_classes=2
            ).weights()
        },
        "start: expected a score network for the real ones' 1 channels of 8 pixels per side, found one for",
    ),
    (
        lambda score: {
            "start": dg.Pretrained(
                source="a.safetensors", network=tiny.ENCODER, num_classes=2, **SHAPE
            ).weights()
        },
        "expected a score network .*, found pretrained of ADMEncoder",
    ),
    (
        lambda score: {"weighting": dg.RatioWeighting(discriminator=score.last())},
        "weighting.discriminator: expected a TrainDiscriminator or a Pretrained Discriminator",
    ),
]


@pytest.mark.parametrize(("fields", "says"), REFUSED)
def test_weights_and_discriminators_that_do_not_fit_are_refused(fields, says):
    score = tiny.score(Path("images.npz"))
    with pytest.raises(ValueError, match=says):
        score.model_copy(update=fields(score))


def test_an_epoch_cannot_be_chosen_by_a_loss_that_is_not_measured():
    with pytest.raises(ValueError, match="has no weighting, so no epoch can be chosen by"):
        tiny.score(Path("images.npz")).best("held_out_weighted_loss")


def test_a_discriminator_of_classes_needs_images_that_have_them():
    path = Path("images.npz")
    plain = dg.ImportImages(source="images.npz", num_classes=0, **SHAPE)
    with pytest.raises(ValueError, match="expected a discriminator without classes.*found one of 2"):
        dg.TrainScore(
            real=plain[:64],
            batch_size=16,
            weighting=dg.RatioWeighting(discriminator=tiny.discriminator(path).last()),
        )
