"""Training whose workers share a batch unevenly, and change in number: the same gradient, every row once per
pass, nearly the same loss."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inprocess import complete
from steps.streaming import numbered, sealed
from steps.together import Training, run
from tiny import ENCODER, fakes, real, score, write_images

from dgflow import ImportImages, SongUNet, TrainDiscriminator, TrainScore
from dgflow.engine.root import Root
from dgflow.runtime.training.loop import share, train
from dgflow.specs.bound import Bound, BoundWeights
from dgflow.steps.training.stream import Stream
from dgflow.store.memory import MemoryStore
from dgflow.store.open import open_store
from dgflow.store.receipts import Receipt
from dgflow.weights.tensors import load_weights


@given(batch=st.integers(1, 300), workers=st.integers(1, 40))
def test_shares_are_all_slots_once_and_differ_by_one_at_most(batch, workers):
    shares = [share(batch, rank, workers) for rank in range(workers)]
    assert [slot for part in shares for slot in part] == list(range(batch))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("workers", [2, 3, 5, 16])
def test_workers_take_every_row_once_a_pass_whatever_their_number(workers):
    images = ImportImages(source="unused.npz", num_classes=10, image_size=1, channels=3)
    step = TrainScore(real=images[:96], batch_size=16, held_out=0.0, seed=3)
    bound = Bound({"real": sealed(MemoryStore(f"rows-{workers}"), numbered(96), 8)})
    streams = [Stream(step, bound, "real", num_classes=0, device=torch.device("cpu")) for _ in range(workers)]
    seen = Counter()
    for number in range(2 * 96 // 16):
        for rank, rows in enumerate(streams):
            taken = rows.take(number, torch.tensor(share(16, rank, workers)))[0]
            seen.update(((taken[:, 1, 0, 0] + 1) * 127.5).round().long().tolist())
        if number == 96 // 16 - 1:
            assert seen == Counter(range(96))
    assert seen == Counter({row: 2 for row in range(96)})
    for rows in streams:
        rows.close()


def test_more_workers_than_slots_are_refused(tmp_path):
    source = write_images(tmp_path / "images.npz")
    store = open_store(str(tmp_path / "root"))
    inputs = complete(score(source, epochs=1), store)
    steps = Root(store).step_store(score(source))
    with pytest.raises(
        ValueError, match="expected at most 16 training workers, one for each slot of a batch, found 17"
    ):
        train(score(source).training_task(inputs), steps, inputs.digests, epochs=2, world_size=17)


def test_training_returns_after_an_epoch_when_it_is_enough_and_goes_on_from_there(tmp_path):
    source = write_images(tmp_path / "images.npz")
    roots = [open_store(str(tmp_path / name)) for name in ("stopped", "undisturbed")]
    inputs = [complete(score(source, epochs=1), root) for root in roots]
    stopped, undisturbed = (Root(root).step_store(score(source)) for root in roots)
    asked = []

    def enough() -> bool:
        asked.append(sorted(stopped.done("epochs", inputs[0].digests)))
        return len(asked) == 2

    train(score(source).training_task(inputs[0]), stopped, inputs[0].digests, epochs=4, enough=enough)
    assert asked == [[1, 2], [1, 2, 3]]  # called after an epoch's commit, and not before the first
    train(score(source).training_task(inputs[0]), stopped, inputs[0].digests, epochs=4, enough=enough)
    assert len(asked) == 2  # nor after the last
    train(score(source).training_task(inputs[1]), undisturbed, inputs[1].digests, epochs=4)
    assert digests(stopped, inputs[0]) == digests(undisturbed, inputs[1])


def digests(steps, inputs) -> dict[int, str]:
    return {
        epoch: steps.receipt(key).rows_sha256 for epoch, key in steps.done("epochs", inputs.digests).items()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Returns what several processes trained, with one start of them for all tests: from its name to the
    receipt and the weights of every epoch."""
    folder = tmp_path_factory.mktemp("together")
    store = open_store(str(folder / "rows"))
    images = dict(np.load(write_images(folder / "images.npz")))
    inputs = Bound(
        {
            "real": sealed(store, images, 32),
            "fake": sealed(store, images | {"image": 255 - images["image"]}, 32, name="1"),
        }
    )
    source = folder / "images.npz"
    network = SongUNet(
        model_channels=8, channel_mult=(1, 1), num_blocks=1, attn_resolutions=(), dropout=0.0
    )  # dropout depends on the workers

    def trainscore(**fields) -> TrainScore:
        return TrainScore(real=real(source)[:96], network=network, held_out=0.25, **fields)

    five = trainscore(batch_size=5, images_per_epoch=5, epochs=1)
    long = trainscore(batch_size=16, epochs=6, ema_halflife=64)
    pair = TrainDiscriminator(
        real=real(source)[:96],
        fake=fakes(source)[:96],
        network=ENCODER,
        batch_size=2,
        images_per_epoch=1,
        epochs=1,
        held_out=0.03,
        gain_of=score(source, epochs=1).last(),
    )
    scored = complete(score(source, epochs=1), store)
    steps = Root(store).step_store(score(source))
    receipt = steps.receipt(steps.key("epochs", 1, scored.digests))
    guided = Bound({**inputs.items, "gain_of": BoundWeights(score(source), steps, receipt, scored)})
    trainings = [
        Training(five, folder / f"five-{workers}", inputs, workers, plain=True) for workers in (1, 2, 3)
    ]
    trainings += [
        Training(pair, folder / f"pair-{workers}", guided, workers, plain=True) for workers in (1, 2)
    ]
    trainings += [
        Training(long, folder / "changing", inputs, workers, stop)
        for workers, stop in ((3, 2), (2, 4), (3, None))
    ]
    trainings += [Training(long, folder / "same", inputs, 1)]
    trainings += [
        Training(long, folder / "left", inputs, 2, leave=11),
        Training(long, folder / "left", inputs, 2),
    ]
    trainings += [Training(long, folder / "stayed", inputs, 2)]
    run(folder, trainings)

    def epochs(name: str) -> list[tuple[Receipt, dict[str, torch.Tensor]]]:
        step = {"five": five, "pair": pair}.get(name.split("-")[0], long)
        steps = Root(open_store(str(folder / name))).step_store(step)
        receipts = [steps.receipt(key) for _, key in sorted(steps.done("epochs", {}).items())]
        return [(receipt, load_weights(steps.read(receipt))) for receipt in receipts]

    return epochs


@pytest.mark.parametrize("workers", [2, 3])
def test_a_batch_of_five_gives_uneven_workers_the_gradient_of_its_mean(made, workers):
    """With one step of plain gradient descent at rate 1, the weights differ by the difference of the
    gradients."""
    (one, expected), (several, found) = made("five-1")[0], made(f"five-{workers}")[0]
    assert several.metrics["workers"] == workers
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    assert several.metrics["train_loss"] == pytest.approx(one.metrics["train_loss"], abs=1e-6)


def test_a_worker_may_have_nothing_but_fakes_in_its_share(made):
    (one, expected), (two, found) = made("pair-1")[0], made("pair-2")[0]
    assert (one.metrics["workers"], two.metrics["workers"]) == (1, 2)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)


def test_workers_share_the_held_out_images_of_gain(made):
    (one, _), (two, _) = made("pair-1")[0], made("pair-2")[0]
    expected, found = one.metrics["gain_curve"], two.metrics["gain_curve"]
    assert found["images"] == expected["images"] == 3
    assert found["gain"] == pytest.approx(expected["gain"], rel=1e-3, abs=1e-6)
    for level, other in zip(found["by_sigma"], expected["by_sigma"], strict=True):
        assert level["energy"] == pytest.approx(other["energy"], rel=1e-3)


def test_two_workers_that_leave_within_an_epoch_go_on_to_the_same_bits_and_the_same_loss(made):
    """One of them has a notice after step 11 of 24, the third step of the third epoch."""
    left, stayed = made("left"), made("stayed")
    assert [receipt.rows_sha256 for receipt, _ in left] == [receipt.rows_sha256 for receipt, _ in stayed]
    losses = [[receipt.metrics["train_loss"] for receipt, _ in each] for each in (left, stayed)]
    assert losses[0] == losses[1]


def test_three_then_two_then_three_workers_end_with_the_loss_of_one_that_nothing_disturbed(made):
    """Within 0.1 %: the batches are the same, and only the order in which gradients are added differs."""
    changing, same = made("changing"), made("same")
    assert [receipt.metrics["workers"] for receipt, _ in changing] == [3, 3, 2, 2, 3, 3]
    assert [receipt.metrics["workers"] for receipt, _ in same] == [1] * 6
    for (receipt, _), (other, _) in zip(changing, same, strict=True):
        assert receipt.metrics["held_out_loss"] == pytest.approx(other.metrics["held_out_loss"], rel=1e-3)
