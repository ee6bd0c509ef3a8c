"""Bagging: a member is trained on its own resample of the rows, each as often as it was drawn, and measured
on the rows out of bag."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from steps.streaming import numbered, sealed
from steps.test_training_stream import numbers
from tiny import discriminator, write_images

from dgflow import ImportImages, TrainDiscriminator
from dgflow.runtime.training.loop import share, train
from dgflow.specs.bound import Bound
from dgflow.steps.training.order import MOST_LANES
from dgflow.steps.training.resample import out_of_bag, times_drawn
from dgflow.steps.training.stream import Stream
from dgflow.store.memory import MemoryStore
from dgflow.store.step_store import StepStore

IMAGES = ImportImages(source="unused.npz", num_classes=10, image_size=1, channels=3)


def member(reals: int, fakes: int, batch_size: int = 2, **fields: Any) -> TrainDiscriminator:
    return TrainDiscriminator(real=IMAGES[:reals], fake=IMAGES[:fakes], batch_size=batch_size, **fields)


def drawn(step: TrainDiscriminator, name: str) -> np.ndarray:
    times = step.times_drawn(name)
    assert times is not None
    return times


def philox_4x64(counter: list[int], key: list[int]) -> list[int]:
    """Computes Philox with Python's integers (Salmon et al. 2011, section 4.3)."""
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        low, high = (lambda value: value % 2**64), (lambda value: value >> 64)
        counter = [
            high(second) ^ counter[1] ^ key[0],
            low(second),
            high(first) ^ counter[3] ^ key[1],
            low(first),
        ]
        key = [(key[0] + 0x9E3779B97F4A7C15) % 2**64, (key[1] + 0xBB67AE8584CAA73B) % 2**64]
    return counter


def test_philox_of_the_reference_below_gives_the_published_answer():
    """The reference is Random123's known answer for zeros, `kat_vectors`."""
    assert philox_4x64([0] * 4, [0] * 2)[0] == 0x16554D9ECA36314C


@pytest.mark.parametrize(
    ("rows", "seed", "number", "stream"), [(7, 0, 0, 0), (50, 3, 12, 1), (9, 2**62, 5, 1)]
)
def test_draws_are_the_words_of_philox_scaled_to_the_rows(rows, seed, number, stream):
    words = [
        word
        for block in range(-(-rows // 4))
        for word in philox_4x64([1 + block, 0, 1, stream], [seed, number])
    ]
    expected = Counter(word * rows >> 64 for word in words[:rows])
    assert times_drawn(rows, seed=seed, number=number, stream=stream).tolist() == [
        expected[row] for row in range(rows)
    ]


def test_a_large_resample_draws_as_many_as_there_are_from_all_of_them():
    times = times_drawn(10**6, seed=0, number=1, stream=0)
    assert (len(times), times.sum()) == (10**6, 10**6)
    # Poisson with mean 1; tolerance of four standard errors.
    for drawn in range(4):
        expected = math.exp(-1) / math.factorial(drawn)
        assert abs((times == drawn).mean() - expected) < 4 * math.sqrt(expected * (1 - expected) / 10**6)


@pytest.mark.parametrize("rows", [2, 5, 60])
def test_the_mean_share_out_of_bag_is_that_of_draws_with_replacement(rows):
    resamples = 400
    left = [out_of_bag(rows, seed=4, number=number, stream=0) for number in range(resamples)]
    share_left, both_left = (1 - 1 / rows) ** rows, (1 - 2 / rows) ** rows
    variance = rows * (rows - 1) * both_left + rows * share_left - (rows * share_left) ** 2
    assert abs(np.mean(left) - rows * share_left) < 4 * math.sqrt(variance / resamples)
    assert min(left) >= 0


def test_number_and_seed_both_matter_and_real_and_fake_differ():
    times = drawn(member(40, 40, bootstrap=3, seed=5), "real")
    assert (times == drawn(member(40, 40, bootstrap=3, seed=5), "real")).all()
    others = [
        drawn(member(40, 40, bootstrap=3, seed=5), "fake"),
        *(drawn(member(40, 40, bootstrap=k, seed=seed), "real") for k, seed in ((4, 5), (3, 6), (5, 3))),
    ]
    assert not any((times == other).all() for other in others)
    assert member(40, 40).times_drawn("real") is None


@pytest.fixture(scope="module")
def sixty():
    """Returns rows 5 to 65 of a step, for the given shard size."""
    return {size: sealed(MemoryStore(f"shards-of-{size}"), numbered(68), size, 5, 65) for size in (3, 7, 40)}


@settings(max_examples=20, deadline=None)
@given(
    shard=st.sampled_from([3, 7, 40]),
    half=st.integers(1, 12),
    workers=st.integers(1, 6),
    number=st.integers(0, 2**63 - 1),
)
def test_workers_take_each_row_as_often_as_it_was_drawn_in_every_pass(sixty, shard, half, workers, number):
    rows, first = 60, 5
    step = TrainDiscriminator(real=IMAGES[:60], fake=IMAGES[5:65], batch_size=2 * half, bootstrap=number)
    bound = Bound({"fake": sixty[shard]})
    times = drawn(step, "fake")
    parts = [
        Stream(
            step, bound, "fake", num_classes=0, device=torch.device("cpu"), slots=np.arange(1, 2 * half, 2)
        )
        for _ in range(workers)
    ]
    lanes = parts[0]._order.lanes
    taken = [[] for _ in range(lanes)]
    steps = math.ceil(math.ceil(rows / lanes) / (half // lanes))
    for batch in range(steps):
        seen = []
        for rank, rows_of in enumerate(parts):
            slots = torch.tensor(share(2 * half, rank, workers))
            seen += numbers(rows_of.take(batch, slots[slots % 2 == 1])[0]) if (slots % 2 == 1).any() else []
        for lane in range(lanes):
            taken[lane] += seen[lane * half // lanes : (lane + 1) * half // lanes]
    first_pass = Counter(
        row
        for lane, own in enumerate(taken)
        for row in own[: (lane + 1) * rows // lanes - lane * rows // lanes]
    )
    assert first_pass == Counter({first + row: int(n) for row, n in enumerate(times) if n})
    left = (np.flatnonzero(times == 0) + first).tolist()
    assert parts[0].held == len(left)
    assert numbers(parts[0].held_out_rows(torch.arange(len(left)))[0]) == left
    for each in parts:
        assert len(each._training.held) <= 2 * MOST_LANES
        each.close()


@pytest.mark.parametrize(("real", "fake", "name"), [(1, 8, "real"), (8, 1, "fake")])
def test_fewer_than_two_rows_are_refused(real, fake, name):
    says = (
        f"at least 2 rows of `{name}` to resample with bootstrap=0, found 1 in import-images; take a larger"
    )
    with pytest.raises(ValidationError, match=says):
        member(real, fake, bootstrap=0)


def test_fewer_rows_than_a_batch_takes_are_refused():
    with pytest.raises(ValidationError, match="expected at least 8 rows .* bootstrap=1, found 7"):
        member(20, 7, bootstrap=1, batch_size=16)


def test_a_resample_that_leaves_no_row_out_is_refused():
    whole = next(number for number in range(99) if not out_of_bag(2, seed=0, number=number, stream=0))
    with pytest.raises(
        ValidationError,
        match="a row of `real` .* not drawn, to measure on, found all 2 of import-images drawn",
    ):
        member(2, 50, bootstrap=whole)


def test_an_epoch_is_that_of_all_rows_and_what_is_measured_is_out_of_bag():
    step = member(200, 300, bootstrap=1, batch_size=20, held_out=0.0)
    assert step.steps_per_epoch == 200 * 2 // 20
    left = min(int((drawn(step, name) == 0).sum()) for name in ("real", "fake"))
    assert step.held_out_items == 2 * step.levels * left
    assert step.best().which == "best:held_out_loss"  # although `held_out` is 0


def test_a_member_that_is_stopped_ends_with_the_bits_of_one_that_was_not(tmp_path):
    images = dict(np.load(write_images(tmp_path / "images.npz")))
    store = MemoryStore("members")
    bound = Bound(
        {
            "real": sealed(store, images, 8, stop=24),
            "fake": sealed(store, images | {"image": 255 - images["image"]}, 8, stop=24, name="1"),
        }
    )
    whole = discriminator(tmp_path / "images.npz")
    step = whole.model_copy(
        update={
            "real": whole.real.step[:24],
            "fake": whole.fakes[0].step[:24],
            "batch_size": 8,
            "bootstrap": 2,
        }
    )
    stopped, undisturbed = (StepStore(store, "train-discriminator", name * 64) for name in "23")
    for steps, epochs in ((stopped, 1), (stopped, 2), (undisturbed, 2)):
        train(step.training_task(bound), steps, {}, epochs=epochs)
    one, other = (steps.receipt(steps.done("epochs", {})[2]) for steps in (stopped, undisturbed))
    assert one.rows_sha256 == other.rows_sha256
    assert sum(level["n"] for level in one.metrics["by_sigma"]) == step.held_out_items
