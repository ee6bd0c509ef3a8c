"""A stream's rows for a training: every row once per pass with any number of workers, newly drawn latents,
bounded memory, named faults."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steps.streaming import numbered, sealed

from dgflow import ImportImages, TrainDiscriminator, TrainScore
from dgflow.diffusion import noise
from dgflow.specs.bound import Bound, BoundRows
from dgflow.steps.training.order import MOST_LANES, Order
from dgflow.steps.training.stream import Stream
from dgflow.store.memory import MemoryStore
from dgflow.store.open import open_store
from dgflow.store.receipts import CorruptObject

CPU = torch.device("cpu")


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


def stream(
    rows: BoundRows, batch_size: int, *, held_out: float = 0.0, seed: int = 3, classes: int = 0, **options
) -> Stream:
    images = ImportImages(source="unused.npz", num_classes=10, image_size=1, channels=3)
    step = TrainScore(
        real=images[: rows.stop - rows.start], batch_size=batch_size, held_out=held_out, seed=seed
    )
    return Stream(step, Bound({"real": rows}), "real", num_classes=classes, device=CPU, **options)


def numbers(images: torch.Tensor) -> list[int]:
    """Returns the rows that `numbered` images encode."""
    values = ((images[:, :, 0, 0] + 1) * 127.5).round().long()
    return (values[:, 0] * 256 + values[:, 1]).tolist()


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    batch=st.integers(1, 70),
    seed=st.integers(0, 2**63),
)
def test_every_lane_goes_through_its_rows_once_a_pass_and_together_they_hold_every_row(sizes, batch, seed):
    order, rows, passes = Order(tuple(sizes), batch, seed), sum(sizes), 2
    lanes, share = order.lanes, batch // order.lanes
    assert 1 <= lanes <= min(MOST_LANES, rows)
    assert batch % lanes == 0
    begins = [rows * lane // lanes for lane in range(lanes + 1)]
    drawn = [[] for _ in range(lanes)]
    for step in range(-(-passes * -(-rows // lanes) // share)):
        places = order.batch_rows(step, np.arange(batch))
        for slot, place in enumerate(zip(places.piece.tolist(), places.row.tolist(), strict=True)):
            drawn[slot // share].append(place)
    every = sorted((piece, row) for piece, size in enumerate(sizes) for row in range(size))
    for number in range(passes):
        of_pass = []
        for lane, places in enumerate(drawn):
            length = begins[lane + 1] - begins[lane]
            of_pass += places[number * length : (number + 1) * length]
        assert sorted(of_pass) == every


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    share=st.integers(1, 8),
    step=st.integers(0, 10**9),
)
def test_workers_take_their_own_part_of_the_same_batch(sizes, share, step):
    for workers in (2, 3):
        order = Order(tuple(sizes), share * workers, 5)
        whole = order.batch_rows(step, np.arange(order.batch))
        parts = [
            order.batch_rows(step, np.arange(rank * share, (rank + 1) * share)) for rank in range(workers)
        ]
        assert np.concatenate([part.piece for part in parts]).tolist() == whole.piece.tolist()
        assert np.concatenate([part.row for part in parts]).tolist() == whole.row.tolist()


def test_two_workers_read_half_of_the_shards_each_and_a_few_that_lanes_share():
    order, steps = Order((8,) * 128, 32, 0), 8 * 128 // 32
    both = [
        {p for step in range(steps) for p in order.batch_rows(step, slots).piece.tolist()}
        for slots in (np.arange(16), np.arange(16, 32))
    ]
    assert [len(pieces) for pieces in both] == [64, 64]


def test_the_first_epoch_shows_no_image_twice_and_never_a_held_out_one(store):
    rows = stream(sealed(store, numbered(1000), 64, start=30, stop=950), 48, held_out=0.25)
    assert (rows.training, rows.held) == (690, 230)
    seen = [
        number
        for step in range(rows.training // 48)
        for number in numbers(rows.take(step, torch.arange(48))[0])
    ]
    assert len(seen) == len(set(seen)) == 14 * 48
    assert set(seen) <= set(range(30, 720))
    assert numbers(rows.held_out_rows(torch.arange(230))[0]) == list(range(720, 950))
    rows.close()


def test_a_batch_is_a_pure_function_of_seed_and_step_in_whatever_order_it_is_asked_for(store):
    bound = sealed(store, numbered(300), 16)
    rows = stream(bound, 20)
    slots = torch.arange(20)
    in_order = [numbers(rows.take(step, slots)[0]) for step in range(40)]
    again = stream(bound, 20)
    assert {step: numbers(again.take(step, slots)[0]) for step in (39, 3, 17, 4, 5, 17)} == {
        s: in_order[s] for s in (39, 3, 17, 4, 5)
    }
    halves = [stream(bound, 20) for _ in range(2)]
    for step in (0, 1, 2, 30):
        parts = [
            numbers(half.take(step, part)[0]) for half, part in zip(halves, slots.split(10), strict=True)
        ]
        assert parts[0] + parts[1] == in_order[step]
    other = stream(bound, 20, seed=4)
    assert numbers(other.take(0, slots)[0]) != in_order[0]
    for each in (rows, again, other, *halves):
        each.close()


@pytest.mark.parametrize(("count", "batch"), [(5, 64), (7, 6), (1, 16), (40, 17)])
def test_fewer_rows_than_a_batch_or_than_lanes_come_round_equally_often(store, count, batch):
    rows = stream(sealed(store, numbered(count), 3), batch)
    seen = [number for step in range(count) for number in numbers(rows.take(step, torch.arange(batch))[0])]
    times = np.bincount(seen, minlength=count)
    assert times.sum() == batch * count
    assert times.max() - times.min() <= MOST_LANES // 2 + 1  # lanes differ by one row in length
    rows.close()


class Counting(MemoryStore):
    """Counts the reads of data."""

    def __init__(self) -> None:
        super().__init__("counting")
        self.reads = []

    def get(self, key):
        if key.endswith(".parquet"):
            self.reads.append(key)
        return super().get(key)


def test_two_hundred_shards_are_read_about_once_a_pass_and_few_are_held():
    store = Counting()
    rows = stream(sealed(store, numbered(1600), 8), 32)
    store.reads.clear()
    held = []
    for step in range(50):
        rows.take(step, torch.arange(32))
        held.append(len(rows._training.held))
    assert max(held) <= 2 * MOST_LANES
    assert len(set(store.reads)) == 200
    assert len(store.reads) <= 200 + 3 * MOST_LANES  # including shared and prefetched shards
    rows.close()


def test_held_out_rows_are_read_once_in_order_and_few_are_held():
    store = Counting()
    rows = stream(sealed(store, numbered(1600), 8), 32, held_out=0.5)
    store.reads.clear()
    for items in torch.arange(800).repeat_interleave(4).split(256):
        assert numbers(rows.held_out_rows(items)[0]) == (items + 800).tolist()
        assert len(rows._kept.held) <= 256 // 4 // 8 + 2
    assert len(store.reads) == len(set(store.reads)) == 100
    rows.close()


def test_fewer_fakes_than_reals_come_round_more_often_and_halves_stay_balanced(store):
    both = {"real": sealed(store, numbered(512), 32), "fake": sealed(store, numbered(96), 32, name="1")}
    images = ImportImages(source="unused.npz", num_classes=10, image_size=1, channels=3)
    step = TrainDiscriminator(real=images[:512], fake=images[:96], batch_size=32, held_out=0.0)
    streams = [
        Stream(step, Bound(both), name, num_classes=0, device=CPU, slots=np.arange(first, 32, 2))
        for first, name in enumerate(both)
    ]
    seen = [
        [n for number in range(32) for n in numbers(rows.take(number, torch.arange(first, 32, 2))[0])]
        for first, rows in enumerate(streams)
    ]
    assert np.bincount(seen[0]).tolist() == [1] * 512
    times = np.bincount(seen[1])
    assert times.sum() == 512
    assert (times.min(), times.max()) == (5, 6)
    for rows in streams:
        rows.close()


def encoded(rows: int) -> dict[str, np.ndarray]:
    """Returns rows as `Encode` makes them: mean 10 and standard deviation 1 for the image, mean -10 and
    standard deviation 2 for its mirror image."""
    constant = {"mean": 10, "std": 1, "mean_flipped": -10, "std_flipped": 2}
    values = {name: np.full((rows, 4, 3, 3), value, dtype=np.float16) for name, value in constant.items()}
    return {"label": np.zeros(rows, dtype=np.int64), **values}


def test_flips_and_latents_are_drawn_anew_at_every_use_with_the_encoders_spread(store):
    rows = stream(sealed(store, encoded(64), 16), 64)
    epochs = torch.stack([rows.take(step, torch.arange(64))[0] for step in range(40)])
    assert epochs.dtype == torch.float32
    flipped = epochs.mean((2, 3, 4)) < 0
    assert abs(flipped.float().mean() - 0.5) < 0.04  # 2560 flips: four standard errors
    assert len(epochs.flatten(2).flatten(0, 1).unique(dim=0)) == 40 * 64
    plain, mirrored = epochs[~flipped] - 10, epochs[flipped] + 10
    assert abs(plain.std() - 1) < 0.02
    assert abs(mirrored.std() - 2) < 0.04
    assert abs(plain.mean()) < 0.02
    rows.close()


def test_a_draw_is_the_normal_of_its_slot_counted_over_all_steps(store):
    rows = stream(sealed(store, encoded(64), 16), 64, seed=11)
    found = rows.take(5, torch.arange(64))[0]
    index = torch.arange(64) + 5 * 64
    normal = noise.standard_normal(11, index, (4, 3, 3), step=0, draw=noise.POSTERIOR).float()
    flips = noise.integers(11, index, 2, step=2, draw=noise.FLIP).bool()[:, None, None, None]
    torch.testing.assert_close(found, torch.where(flips, -10 + 2 * normal, 10 + normal), rtol=0, atol=0)
    rows.close()


def test_held_out_latents_are_the_same_at_every_use(store):
    rows = stream(sealed(store, encoded(64), 16), 16, held_out=0.5)
    first = rows.held_out_rows(torch.arange(32))[0]
    torch.testing.assert_close(rows.held_out_rows(torch.arange(32))[0], first, rtol=0, atol=0)
    torch.testing.assert_close(rows.held_out_rows(torch.tensor([7, 20]))[0], first[[7, 20]], rtol=0, atol=0)
    rows.close()


def test_stored_draws_of_a_hierarchical_encoder_are_all_used(store):
    """Three draws of the image, then three of its mirror image; each row's draws are ten times its number
    plus their own number."""
    values = (np.arange(32)[:, None] * 10 + np.arange(6)).astype(np.float16)[
        :, :, None, None, None
    ] * np.ones((1, 1, 2, 2, 2), np.float16)
    rows = stream(sealed(store, {"label": np.zeros(32, np.int64), "latent": values}, 8), 32)
    seen = torch.cat([rows.take(step, torch.arange(32))[0][:, 0, 0, 0] for step in range(60)]).long()
    assert np.bincount(seen // 10).tolist() == [60] * 32
    times = np.bincount(seen % 10)
    assert len(times) == 6
    assert abs(times / len(seen) - 1 / 6).max() < 0.034  # four standard errors of 1920
    rows.close()


def test_latents_of_a_sampler_are_taken_as_they_are(store):
    latent = np.random.default_rng(0).standard_normal((40, 4, 2, 2)).astype(np.float16)
    rows = stream(sealed(store, {"label": np.arange(40), "latent": latent}, 8), 40, classes=40)
    found, labels = rows.take(0, torch.arange(40))
    assert sorted(labels.tolist()) == list(range(40))
    torch.testing.assert_close(found, torch.from_numpy(latent).float()[labels], rtol=0, atol=0)
    rows.close()


def test_mirrored_images_are_half_of_the_uses_and_none_of_the_held_out_ones(store):
    image = np.zeros((64, 2, 3, 1), np.uint8)
    image[:, :, 0] = 255
    rows = stream(
        sealed(store, {"label": np.zeros(64, np.int64), "image": image}, 16), 32, held_out=0.5, mirror=True
    )
    left = torch.cat([rows.take(step, torch.arange(32))[0][:, 0, 1] for step in range(40)])
    assert set(map(tuple, left.tolist())) == {(1, -1, -1), (-1, -1, 1)}
    assert abs((left[:, 0] > 0).float().mean() - 0.5) < 0.056  # four standard errors of 1280
    assert (rows.held_out_rows(torch.arange(32))[0][:, 0, :, 0] == 1).all()
    rows.close()


def test_a_corrupt_shard_is_named_by_the_step_that_needs_it(store):
    bound = sealed(store, numbered(64), 8)
    broken = bound.manifest.entries[5]
    data = bytearray(store.get(broken.key))
    data[len(data) // 2] ^= 1
    store.put(broken.key, bytes(data))
    rows = stream(bound, 2)  # two lanes of four shards: it is read ahead
    rows.take(0, torch.arange(2))
    with pytest.raises(CorruptObject, match="shards/00005"):
        for step in range(32):
            rows.take(step, torch.arange(2))
    rows.close()


def test_labels_outside_the_classes_are_refused_with_their_range(store):
    images = numbered(32) | {"label": np.arange(32)}
    rows = stream(sealed(store, images, 16), 32, classes=20)
    with pytest.raises(
        ValueError, match="expected labels 0 to 19 in import-images-.*, found 16 to 31 in shard 1"
    ):
        rows.take(0, torch.arange(32))
    rows.close()


def test_rows_without_images_or_latents_are_refused(store):
    with pytest.raises(
        ValueError, match=r"expected a column image, latent or mean .* found \['feature', 'index', 'label'\]"
    ):
        stream(sealed(store, {"label": np.zeros(4, np.int64), "feature": np.zeros((4, 2))}, 4), 2)
