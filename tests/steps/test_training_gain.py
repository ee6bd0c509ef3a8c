"""Gain in the epochs of a training, in this process: its numbers, its evaluations, and choices by it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from inprocess import complete
from steps.identities import FAKES, REAL, SCORE
from tiny import discriminator, score, write_images
from torch import Tensor

from dgflow import DiT, Gain, Pretrained, SongUNet, TrainDiscriminator
from dgflow.diffusion import noise
from dgflow.diffusion.gain_curve import MeasuredGain
from dgflow.diffusion.times import tau_from_sigma
from dgflow.engine.execute import result_of
from dgflow.engine.plan import plan
from dgflow.engine.root import Root
from dgflow.networks.families import score_network
from dgflow.specs.bound import Bound, BoundWeights
from dgflow.specs.network import DataShape
from dgflow.steps.frozen_score import FrozenScore
from dgflow.steps.gain_checks import measured_images
from dgflow.steps.gain_items import GainItems
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store


def trained(source, epochs: int = 3, **fields) -> TrainDiscriminator:
    """Returns the tiny discriminator, with Gain of the score network that it will guide."""
    return discriminator(source, epochs).model_copy(
        update={"gain_of": score(source).last(), "precision": "float32"} | fields
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("gain") / "images.npz")


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory) -> tuple[TrainDiscriminator, ObjectStore, Bound]:
    store = open_store(str(tmp_path_factory.mktemp("gain") / "root"))
    return trained(source), store, complete(trained(source), store)


def metrics(step, store, inputs) -> dict[int, dict]:
    steps = Root(store).step_store(step)
    return {epoch: steps.receipt(key).metrics for epoch, key in steps.done("epochs", inputs.digests).items()}


def errors_of_denoising(step: TrainDiscriminator, inputs: Bound, store: ObjectStore, epoch: int) -> Tensor:
    """Computes |x0 - D|^2 - |x0 - D'|^2 at weight 1 in float64, as in theorem 2, of the 16 held-out images at
    each of 8 levels: times 1 / sigma^2 and the width of a level in log sigma."""
    rows = inputs.rows("real", None, 48, 64)
    steps = Root(store).step_store(step)
    receipt = steps.receipt(steps.key("epochs", epoch, inputs.digests))
    own = BoundWeights(step, steps, receipt, inputs)
    network = Bound({"own": own}).network("own")
    item = torch.arange(16 * 8)
    x0 = torch.from_numpy(rows["image"]).permute(0, 3, 1, 2).double()[item // 8] / 127.5 - 1
    labels = torch.from_numpy(rows["label"].astype(np.int64))[item // 8]
    u = noise.uniform(step.seed, item, (), step=1, draw=noise.EVALUATION_LEVEL)
    width = np.log(80 / 0.0447) / 8
    sigma = 0.0447 * torch.exp((item % 8 + u) * width)
    z = noise.standard_normal(step.seed, item, (1, 8, 8), step=1, draw=noise.EVALUATION_NOISE)
    x = (x0 + sigma[:, None, None, None] * z).requires_grad_()
    y = (x / (1 + sigma**2).sqrt()[:, None, None, None]).float()
    (gradient,) = torch.autograd.grad(network(y, tau_from_sigma(sigma).float(), labels).sum(), x)
    assert step.gain_of is not None
    model = score_network(step.gain_of).score_model(inputs.network("gain_of"))
    with torch.no_grad():
        before = x0 - model.denoiser(x.detach(), sigma, labels).double()
    after = before - sigma.square()[:, None, None, None] * gradient
    fall = (before.square() - after.square()).flatten(1).sum(1)
    return (fall / sigma.square() * width).view(16, 8)


def test_every_epoch_records_the_fall_of_the_denoising_error_of_held_out_images(finished):
    step, store, inputs = finished
    for epoch, found in metrics(step, store, inputs).items():
        falls = errors_of_denoising(step, inputs, store, epoch)
        total = falls.sum(1)
        assert found["gain"] == pytest.approx(float(total.mean()), rel=1e-3, abs=1e-4)
        assert found["gain_error"] == pytest.approx(float(total.std()) / 4, rel=1e-3, abs=1e-4)
        curve = found["gain_curve"]
        assert curve["images"] == 16 and curve["weights"] == [0.5, 1.0, 2.0]
        assert curve["gain"][1] == found["gain"] and curve["error"][1] == found["gain_error"]
        by_level = [level["gain"][1] for level in curve["by_sigma"]]
        assert by_level == pytest.approx(falls.mean(0).tolist(), rel=1e-3, abs=1e-4)
        assert [level["error"][1] for level in curve["by_sigma"]] == pytest.approx(
            (falls.std(0) / 4).tolist(), rel=1e-3, abs=1e-4
        )
        assert (curve["by_sigma"][0]["sigma"][0], curve["by_sigma"][-1]["sigma"][1]) == (0.0447, 80.0)


def test_gain_changes_no_weight_and_no_other_measurement(finished, source):
    step, store, inputs = finished
    plain = step.model_copy(update={"gain_of": None})
    bare = complete(plain, store)
    ours, theirs = metrics(step, store, inputs), metrics(plain, store, bare)
    own, other = (Root(store).step_store(each) for each in (step, plain))
    for epoch in ours:
        assert not [name for name in theirs[epoch] if name.startswith("gain")]
        for name in ("train_loss", "held_out_loss", "held_out_accuracy", "by_sigma"):
            assert ours[epoch][name] == theirs[epoch][name]
        keys = own.key("epochs", epoch, inputs.digests), other.key("epochs", epoch, bare.digests)
        assert own.receipt(keys[0]).rows_sha256 == other.receipt(keys[1]).rows_sha256


def test_the_step_gain_measures_the_same_of_the_same_images(finished):
    step, store, inputs = finished
    assert step.gain_of is not None
    own = Gain(score=step.gain_of, discriminator=step.epoch(2), real=step.real.step[48:64])
    complete(own, store)
    found, recorded = json.loads(result_of(own, store)), metrics(step, store, inputs)[2]
    for name in ("gain", "gain_error", "gain_at_best_weight"):
        assert found[name] == pytest.approx(recorded[name], rel=1e-3, abs=1e-6)


def items_of(step: TrainDiscriminator, inputs: Bound) -> tuple[GainItems, torch.nn.Module]:
    task = step.training_task(inputs)
    (measurement,) = task.further
    items = measurement.measure.__self__  # pyright: ignore[reportFunctionMemberAccess]
    assert isinstance(items, GainItems) and measurement.items == 16 * 8
    return items, task.network.eval()


def test_the_score_network_is_asked_once_about_each_item_and_then_let_go(finished):
    step, _, inputs = finished
    items, network = items_of(step, inputs)
    asked = []
    score = inputs.network("gain_of")
    score.register_forward_hook(lambda *_: asked.append(1))
    loaded = []
    items.score.load = lambda: loaded.append(1) or score
    every = torch.arange(16 * 8)
    first = items.summarise(items.measure(network, every))
    calls = len(asked)
    assert calls == 16 * 8 // 16 and items.score._model is None
    assert items.summarise(items.measure(network, every)) == first
    assert (len(asked), len(loaded)) == (calls, 1)


def test_workers_that_share_the_items_measure_the_same(finished):
    step, _, inputs = finished
    items, network = items_of(step, inputs)
    every = torch.arange(16 * 8)
    whole = items.measure(network, every)
    for rank in range(3):
        part = items.measure(network, every[rank::3])
        for name, values in part.items():
            assert torch.allclose(values, whole[name][rank::3], rtol=1e-4, atol=1e-6)


def test_a_training_that_goes_on_in_another_process_records_the_same_gain(finished):
    """Neither the last epoch nor its checkpoint exists, as after a kill in that epoch."""
    step, store, inputs = finished
    expected = metrics(step, store, inputs)
    steps = Root(store).step_store(step)
    for folder in ("epochs", "checkpoints"):
        [key] = steps.committed(folder)[3].values()
        store.delete(key)
    found = metrics(step, store, complete(step, store))
    assert [found[epoch]["gain_curve"] for epoch in (1, 2, 3)] == [
        expected[epoch]["gain_curve"] for epoch in (1, 2, 3)
    ]


def test_a_bagged_member_measures_its_out_of_bag_images_and_an_unconditional_one_is_told_no_class(
    source, finished
):
    _, store, _ = finished
    step = trained(source, epochs=1, bootstrap=3, conditional=False)
    held = step.split("real")[1]
    assert step.gain_images == held != 16
    (found,) = metrics(step, store, complete(step, store)).values()
    assert found["gain_curve"]["images"] == held and np.isfinite(found["gain"])


def test_bfloat16_gives_the_gain_of_float32_to_its_precision(source, finished):
    step, store, inputs = finished
    items, network = items_of(step, inputs)
    rounded, _ = items_of(step.model_copy(update={"precision": "bfloat16"}), inputs)
    every = torch.arange(16 * 8)
    exact, coarse = (
        MeasuredGain.of(each.summarise(each.measure(network, every))["gain_curve"])
        for each in (items, rounded)
    )
    assert coarse != exact
    assert abs(coarse.total.at(1.0).mean - exact.total.at(1.0).mean) < 0.2 * exact.total.at(1.0).error


def test_the_best_epoch_by_gain_has_the_largest(finished):
    step, store, inputs = finished
    recorded = metrics(step, store, inputs)
    assert len({values["gain"] for values in recorded.values()}) == 3
    for name in ("gain", "gain_at_best_weight"):
        best = max(recorded, key=lambda epoch: recorded[epoch][name])
        assert step.best(name).choose(recorded) == best
    worked = {1: {"gain": -0.5}, 2: {"gain": 0.25}, 3: {"gain": 0.25}, 4: {"gain": 0.1}}
    assert step.best("gain").choose(worked) == 2  # the earliest of equals
    smallest = {epoch: {"held_out_loss": values["gain"]} for epoch, values in worked.items()}
    assert step.best().choose(smallest) == 1


def test_the_plan_counts_gradients_by_epoch_and_score_evaluations_once(source, tmp_path):
    step = trained(source, epochs=5)
    (state,) = (
        each for each in plan(step, open_store(str(tmp_path))) if each.step.kind == "train-discriminator"
    )
    gradients, scores = state.work[-2:]
    assert (gradients.network, gradients.use, gradients.times) == (step, "gradient", 5 * 8 * 16)
    assert (scores.network, scores.use, scores.times) == (score(source), "forward", 8 * 16)


OTHER_SIZE = Pretrained(source="net.pt", network=SongUNet(), image_size=16, channels=1).weights()
OTHER_CLASSES = Pretrained(
    source="net.pt", network=SongUNet(), image_size=8, channels=1, num_classes=5
).weights()


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (dict(gain_of=SCORE.last(), held_out=0.0), "gain_of: expected at least two held-out real images"),
        (dict(gain_of=SCORE.last(), held_out=0.01), "measure Gain on, found 1: set held_out"),
        (dict(gain_of=OTHER_SIZE), "real ones' 1 channels of 8 pixels per side, found one for 1 of 16"),
        (dict(gain_of=OTHER_CLASSES), "with the real ones' 3, whose labels it receives, found 5"),
    ],
)
def test_gain_without_held_out_images_or_of_another_score_network_is_refused(build, says):
    with pytest.raises(ValueError, match=says):
        TrainDiscriminator(real=REAL[:100], fake=FAKES[:100], batch_size=8, **build)


@pytest.mark.parametrize("metric", ["gain", "gain_at_best_weight"])
def test_an_epoch_cannot_be_chosen_by_a_gain_that_is_not_measured(metric):
    with pytest.raises(ValueError, match=f"no epoch can be chosen by {metric}: set gain_of to the weights"):
        TrainDiscriminator(real=REAL[:100], fake=FAKES[:100]).best(metric)


@pytest.mark.parametrize(
    ("held", "side", "images"),
    [(1_500, 32, 1_500), (5_000, 32, 2_048), (5_000, 64, 2_048), (5_000, 256, 170), (5_000, 4_096, 2)],
)
def test_the_number_of_images_is_bounded_by_count_and_by_memory(held, side, images):
    """Two float32 copies of an image at eight levels, in 2 GiB: 16 * 4 * 3 * 256^2 bytes fit 170 times."""
    assert measured_images(held, DataShape(side, 3, 0), levels=8) == images


def items_at(low: float, high: float) -> GainItems:
    """Returns items for a DiT, whose schedule has noise levels of 0.01 to 157."""
    network = DiT(hidden_size=32, depth=1, num_heads=2)
    score = Pretrained(source="DiT.pt", network=network, image_size=4, channels=4, num_classes=3)
    return GainItems(
        rows=lambda _: pytest.fail("read"),
        images=2,
        score=FrozenScore(
            score.weights(),
            load=lambda: pytest.fail("loaded"),
            conditional=False,
            precision="float32",
            device=torch.device("cpu"),
            name="here",
        ),
        seed=0,
        levels=4,
        sigma_range=(low, high),
        time_map=tau_from_sigma,
        batch_size=8,
    )


def test_levels_that_the_score_network_was_not_made_for_are_left_out():
    edges = items_at(0.001, 80.0).edges
    assert edges[0] == pytest.approx(0.01, rel=0.01) and edges[-1] == 80.0
    assert np.diff(np.log(edges)) == pytest.approx([math.log(80.0 / edges[0]) / 4] * 4)
    with pytest.raises(ValueError, match="sigma_min 200 and sigma_max 400 that the score network was"):
        _ = items_at(200.0, 400.0).edges
