"""The training loop on real steps, in this process: learning, commits, and resumption after a crash."""

import numpy as np
import pytest
import torch
from inprocess import complete
from steps.streaming import sealed
from tiny import ENCODER, JUDGE, discriminator, fakes, real, score, write_images

from dgflow import TrainClassifier, TrainDiscriminator
from dgflow.engine.plan import step_plan
from dgflow.engine.root import Root
from dgflow.runtime.training import checkpoints
from dgflow.runtime.training import loop as training
from dgflow.runtime.training.loop import train
from dgflow.specs.bound import Bound, BoundRows
from dgflow.specs.graph import graph
from dgflow.specs.training_task import Measurement
from dgflow.steps.training.discriminator_metrics import summarise
from dgflow.store.open import open_store
from dgflow.weights.tensors import load_weights


class Crash(BaseException):
    """A dying process: nothing may catch it."""


def checkpoint(steps, epoch) -> str:
    """Returns the key of the receipt of the only checkpoint at the end of an epoch."""
    [key] = steps.committed("checkpoints")[epoch].values()
    return key


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


@pytest.fixture
def source(tmp_path):
    return write_images(tmp_path / "images.npz")


def digests(step, store, inputs):
    """Returns the digest of the weights by epoch."""
    steps = Root(store).step_store(step)
    return {
        epoch: steps.receipt(key).rows_sha256 for epoch, key in steps.done("epochs", inputs.digests).items()
    }


def test_every_epoch_is_kept_and_training_lowers_the_held_out_loss(source, store):
    step = score(source, epochs=6)
    inputs = complete(step, store)
    steps = Root(store).step_store(step)
    losses = [
        steps.receipt(key).metrics["held_out_loss"]
        for _, key in sorted(steps.done("epochs", inputs.digests).items())
    ]
    assert len(losses) == 6
    assert losses[-1] < losses[0]


def test_more_epochs_go_on_from_the_last_and_change_no_earlier_one(source, store, tmp_path):
    other = open_store(str(tmp_path / "other"))
    inputs = complete(score(source, epochs=2), store)
    before = digests(score(source), store, inputs)
    complete(score(source, epochs=4), store)
    complete(score(source, epochs=4), other)
    after = digests(score(source), store, inputs)
    assert {epoch: after[epoch] for epoch in before} == before
    assert after == digests(score(source), other, inputs)


@pytest.mark.parametrize("kind", ["score", "classifier", "discriminator"])
def test_a_crash_in_mid_epoch_costs_that_epoch_and_changes_no_bit(source, store, tmp_path, kind):
    def step(epochs):
        if kind == "score":
            return score(source, epochs)
        if kind == "classifier":
            return TrainClassifier(
                real=real(source)[:64], network=JUDGE, batch_size=16, epochs=epochs, shift=1
            )
        return discriminator(source, epochs)

    undisturbed = open_store(str(tmp_path / "undisturbed"))
    expected = digests(step(3), undisturbed, complete(step(3), undisturbed))

    inputs = complete(step(1), store)
    steps = Root(store).step_store(step(3))
    task = step(3).training_task(inputs)
    loss, crash_at = task.loss, task.steps_per_epoch + 1

    def crashing(network, slots, number):
        if number == crash_at:
            raise Crash
        return loss(network, slots, number)

    task.loss = crashing
    with pytest.raises(Crash):
        train(task, steps, inputs.digests, epochs=3)
    complete(step(3), store)
    assert digests(step(3), store, inputs) == expected


def test_a_truncated_newest_checkpoint_is_passed_over_for_the_one_before(source, store, tmp_path, caplog):
    undisturbed = open_store(str(tmp_path / "undisturbed"))
    expected = digests(score(source), undisturbed, complete(score(source, epochs=4), undisturbed))
    inputs = complete(score(source, epochs=3), store)
    steps = Root(store).step_store(score(source))
    newest = steps.receipt(checkpoint(steps, 3))
    store.put(newest.key, store.get(newest.key)[:100])
    complete(score(source, epochs=4), store)
    assert digests(score(source), store, inputs) == expected
    assert "the checkpoint checkpoints/00003-" in caplog.text


@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_a_damaged_receipt_of_any_checkpoint_is_passed_over_and_gets_out_of_the_way(
    source, store, tmp_path, caplog, damaged
):
    """Covers a checkpoint about to be removed, one to fall back on, and the newest, which is made again."""
    undisturbed = open_store(str(tmp_path / "undisturbed"))
    expected = digests(score(source), undisturbed, complete(score(source, epochs=4), undisturbed))
    inputs = complete(score(source, epochs=3), store)
    steps = Root(store).step_store(score(source))
    key = checkpoint(steps, damaged) if damaged > 1 else steps.key("checkpoints", 1, inputs.digests)
    store.put(key, b'{"part": 7}' if damaged % 2 else b"")
    complete(score(source, epochs=4), store)
    assert digests(score(source), store, inputs) == expected
    assert sorted(steps.committed("checkpoints")) == [3, 4]
    assert key in caplog.text if damaged in (2, 3) else store.size(key) is None
    for number in (3, 4):
        steps.read(steps.receipt(checkpoint(steps, number)))


def test_only_the_newest_checkpoints_are_kept(source, store):
    complete(score(source, epochs=5), store)
    assert sorted(Root(store).step_store(score(source)).committed("checkpoints")) == [4, 5]
    assert checkpoints.KEPT == 2


def test_a_loss_that_is_not_finite_names_the_epoch_and_keeps_the_ones_before(source, store):
    inputs = complete(score(source, epochs=1), store)
    steps = Root(store).step_store(score(source))
    task = score(source).training_task(inputs)
    task.loss = lambda network, slots, step: (
        network(torch.zeros(len(slots), 1, 8, 8), torch.ones(len(slots))).sum((1, 2, 3)) * float("nan")
    )
    with pytest.raises(FloatingPointError, match="in epoch 2"):
        train(task, steps, inputs.digests, epochs=2)
    assert list(steps.done("epochs", inputs.digests)) == [1]


def spoilt(source, inputs, at: int):
    """Returns a training whose loss is NaN from step `at` on, and the steps that it reached."""
    task, steps = score(source).training_task(inputs), []
    whole = task.loss

    def loss(network, slots, step):
        steps.append(step)
        return whole(network, slots, step) * (float("nan") if step >= at else 1.0)

    task.loss = loss
    return task, steps


@pytest.mark.parametrize(
    ("at", "says"),
    [
        (0, r"found nan in epoch 1, step 1 of 3, .* no step had changed the weights.*No epoch is committed"),
        (1, r"epoch 1, step 2 of 3, .* at learning rate 0.001; lower .*to 0.0001\. No epoch is commit"),
        (4, r"found nan in epoch 2, step 2 of 3, .* select one with .epoch\(n\), n < 2, or set epochs to"),
    ],
)
def test_a_training_ends_at_the_step_whose_loss_is_not_finite_and_commits_nothing_of_it(
    source, store, at, says
):
    label = np.arange(64) % 2
    images = np.random.default_rng(1).integers(0, 256, (64, 8, 8, 1)).astype(np.uint8)
    rows = {"index": np.arange(64), "label": label, "image": images}
    inputs = Bound({"real": sealed(store, rows, 32)})
    steps = Root(store).step_store(score(source))
    task, taken = spoilt(source, inputs, at)
    with pytest.raises(FloatingPointError, match=says):
        train(task, steps, inputs.digests, epochs=3)
    assert taken == list(range(at + 1))
    whole = list(range(1, at // 3 + 1))
    assert sorted(steps.done("epochs", inputs.digests)) == whole
    assert sorted(steps.committed("checkpoints")) == whole


def test_weights_that_are_not_finite_after_the_last_step_of_an_epoch_are_not_committed(source, store):
    inputs = complete(score(source, epochs=1), store)
    steps = Root(store).step_store(score(source))
    task = score(source).training_task(inputs)

    def overflow(*_) -> None:
        next(task.trained.parameters()).data.fill_(float("inf"))

    task.optimizer.register_step_post_hook(overflow)
    task.loss = lambda network, slots, step: (
        network(torch.zeros(len(slots), 1, 8, 8), torch.ones(len(slots))).sum((1, 2, 3)).nan_to_num(0, 0, 0)
    )
    with pytest.raises(FloatingPointError, match="value of every weight, found NaN or infinity in .*epoch 2"):
        train(task, steps, inputs.digests, epochs=2)
    assert list(steps.done("epochs", inputs.digests)) == [1]


def test_weights_do_not_depend_on_the_held_out_images(source, store, tmp_path):
    """Changing a held-out image must not affect the weights: it is measured and never trained on."""
    inputs = complete(score(source), store)
    rows = inputs.rows("real")
    rows["image"][-16:] = 255 - rows["image"][-16:]
    elsewhere = open_store(str(tmp_path / "other"))
    own, other = Root(store).step_store(score(source)), Root(elsewhere).step_store(score(source))
    train(score(source).training_task(Bound({"real": sealed(elsewhere, rows, 32)})), other, {}, epochs=2)
    ours, theirs = (
        [steps.receipt(key) for _, key in sorted(steps.done("epochs", made).items())]
        for steps, made in ((own, inputs.digests), (other, {}))
    )
    assert [epoch.rows_sha256 for epoch in ours] == [epoch.rows_sha256 for epoch in theirs]
    assert all(
        a.metrics["held_out_loss"] != b.metrics["held_out_loss"] for a, b in zip(ours, theirs, strict=True)
    )


def test_a_step_retrained_to_other_weights_makes_what_was_built_on_it_stale(source, store):
    samples = fakes(source)[:16]
    complete(samples.step, store)
    target = TrainDiscriminator(real=real(source)[:64], fake=samples, batch_size=8, network=ENCODER)
    complete(target, store)
    # Another machine's training gives other bits under the same recipe: they replace epoch 2.
    root, step = Root(store), score(source)
    inputs = complete(step, store)
    steps = root.step_store(step)
    key = steps.done("epochs", inputs.digests)[2]
    store.delete(key)
    tensors = {
        name: value + 1e-3 for name, value in load_weights(store.get(root_receipt_key(store, step))).items()
    }
    checkpoints.commit(
        steps, "epochs", 2, tensors, inputs.digests, 1.0, {"held_out_loss": 0.1}, torch.device("cpu")
    )
    known = {}
    states = {node.step.kind: step_plan(root, node, known) for node in graph(target)}
    assert states["generate"].action == "rebuild"
    assert "made from another score" in states["generate"].reason
    assert states["train-discriminator"].bound is None


def root_receipt_key(store, step):
    name = Root(store).step_store(step).name
    return next(entry.key for entry in store.list(f"{name}/data") if "epochs-00002" in entry.key)


def test_calibration_by_level_against_a_closed_form():
    """Logits that are the true log-ratio are calibrated; doubling them overstates every probability by a
    known amount."""
    generator = torch.Generator().manual_seed(0)
    sigma = torch.full((200_000,), 1.0, dtype=torch.float64)
    probability = torch.tensor([0.2, 0.8], dtype=torch.float64).repeat(100_000)
    is_real = torch.rand(200_000, generator=generator, dtype=torch.float64) < probability
    logit = torch.logit(probability)
    values = {"logit": logit, "loss": torch.zeros_like(logit), "sigma": sigma, "is_real": is_real}
    right = summarise(values, 0.5, 2.0)["by_sigma"][0]
    assert right["calibration_error"] < 0.005
    assert abs(right["accuracy"] - 0.8) < 0.005
    doubled = summarise(values | {"logit": 2 * logit}, 0.5, 2.0)["by_sigma"][0]
    assert abs(doubled["calibration_error"] - (0.8**2 / (0.8**2 + 0.2**2) - 0.8)) < 0.005


def test_further_measurements_add_their_metrics_to_those_of_the_epoch(source, store):
    """Each has its own items and its own values, here ten of a kind that the loss does not have."""
    step = discriminator(source, epochs=1)
    inputs = complete(step, store)
    task = step.training_task(inputs)

    def summarised(values):
        return {"sum_of_squares": int(values["square"].sum())}

    task.further = (Measurement(10, lambda _, items: {"square": items**2}, summarised),)
    metrics = training._held_out(task, rank=0, world_size=1)
    assert metrics.pop("sum_of_squares") == 285
    task.further = ()
    assert metrics == training._held_out(task, rank=0, world_size=1)
    assert metrics["held_out_loss"] > 0


def test_a_slice_is_read_across_shards_and_trimmed(source, store):
    inputs = complete(score(source, epochs=1), store)
    item = inputs.items["real"]
    assert isinstance(item, BoundRows)
    assert np.concatenate([part["index"] for part in item.read(["index"], 30, 50)]).tolist() == list(
        range(30, 50)
    )
