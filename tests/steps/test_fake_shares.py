"""A discriminator against several slices of fakes: shares of a batch and of the held-out pairs, and the ratio
that its logit then is."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inprocess import complete
from steps.streaming import numbered, sealed
from torch import nn

import dgflow as dg
from dgflow.runtime.training.loop import share
from dgflow.specs.bound import Bound
from dgflow.steps.training.discriminator_data import RealAndFake
from dgflow.steps.training.fake_shares import interleaved, most_rows, whole_rows
from dgflow.store.memory import MemoryStore

CPU = torch.device("cpu")
IMAGES = dg.ImportImages(source="unused.npz", num_classes=10, image_size=1, channels=3)
ROWS = {"real": 96, "fake.0": 24, "fake.1": 64}
FAKES = (IMAGES[100:124], IMAGES[200:264])


def mixed(**fields) -> dg.TrainDiscriminator:
    fields = {"real": IMAGES[:96], "fake": FAKES, "batch_size": 16, "held_out": 0.0, "seed": 3} | fields
    return dg.TrainDiscriminator(**fields)


@pytest.fixture(scope="module")
def bound() -> Bound:
    """Returns images that encode their rows, in shards of 8."""
    slices = enumerate(ROWS.items())
    store = MemoryStore("mixed")
    return Bound({name: sealed(store, numbered(rows), 8, name=str(kind)) for kind, (name, rows) in slices})


def data(step: dg.TrainDiscriminator, bound: Bound) -> RealAndFake:
    return RealAndFake(
        step,
        bound,
        names=step.slice_names,
        fakes=step.fake_rows(step.batch_size // 2),
        held_out=step.fake_rows(step.held_out_pairs),
        num_classes=0,
        device=CPU,
    )


def rows(images: torch.Tensor) -> list[int]:
    """Returns the rows that `numbered` images encode."""
    values = ((images[:, :, 0, 0] + 1) * 127.5).round().long()
    return (values[:, 0] * 256 + values[:, 1]).tolist()


@given(total=st.integers(0, 500), parts=st.lists(st.integers(1, 50), min_size=1, max_size=6), extra=st.data())
def test_rows_are_divided_within_one_of_their_share_and_spread_evenly(total, parts, extra):
    shares = [part / sum(parts) for part in parts]
    counts = whole_rows(total, shares)
    assert sum(counts) == total
    assert all(abs(count - total * share) < 1 for count, share in zip(counts, shares, strict=True))
    order = interleaved(counts)
    assert np.bincount(order, minlength=len(parts)).tolist() == counts
    first = extra.draw(st.integers(0, total))
    seen = np.bincount(order[:first], minlength=len(parts))
    slack = 1 + len(parts) / 2
    assert all(abs(n - first * count / max(1, total)) <= slack for n, count in zip(seen, counts, strict=True))
    available = [extra.draw(st.integers(0, 60)) for _ in parts]
    most = most_rows(available, shares)
    assert all(n <= there for n, there in zip(whole_rows(most, shares), available, strict=True))


@pytest.mark.parametrize("workers", [1, 3, 16])
def test_every_batch_has_the_shares_and_a_pass_takes_every_row_once_whatever_the_workers(bound, workers):
    step = mixed(fake_shares=(0.25, 0.75))
    assert step.fake_rows(8) == [2, 6]
    parts = [data(step, bound) for _ in range(workers)]
    seen: list[list[int]] = [[], []]
    for number in range(12):
        fakes = []
        for rank, own in enumerate(parts):
            batch = own.batch(torch.tensor(share(16, rank, workers)), number)
            fakes += rows(batch.images[~batch.is_real])
        kinds = interleaved([2, 6])
        for kind in (0, 1):
            seen[kind] += [row for row, own in zip(fakes, kinds, strict=True) if own == kind]
    assert np.bincount(seen[0]).tolist() == [1] * 24  # 12 batches of 2
    assert set(np.bincount(seen[1], minlength=64)) == {1, 2}  # 12 batches of 6 out of 64
    for own in parts:
        for stream in own.streams:
            stream.close()


def test_a_batch_is_a_function_of_seed_and_step_and_each_image_stays_with_its_kind(bound):
    step, slots = mixed(), torch.arange(16)
    first, later = data(step, bound), data(step, bound)
    batches = [first.batch(slots, number) for number in range(6)]
    again = later.batch(slots, 5)
    assert torch.equal(batches[5].images, again.images)
    assert not torch.equal(batches[4].images, again.images)
    assert again.is_real.tolist() == [True, False] * 8
    assert max(rows(again.images[3::4])) > 24 >= max(rows(again.images[1::4]))  # only fake.1 has so many
    for own in (first, later):
        for stream in own.streams:
            stream.close()


def test_one_slice_in_a_tuple_gives_the_batches_of_that_slice(bound):
    alone, several = mixed(fake=FAKES[0]), mixed(fake=FAKES[:1])
    assert alone.fingerprint != several.fingerprint and "fake_shares" not in alone.document()["fields"]
    one = data(alone, Bound({"real": bound.items["real"], "fake": bound.items["fake.0"]}))
    two = data(several, bound)
    for number in range(4):
        a, b = (own.batch(torch.arange(16), number) for own in (one, two))
        assert torch.equal(a.images, b.images) and torch.equal(a.is_real, b.is_real)
    for own in (one, two):
        for stream in own.streams:
            stream.close()


def test_held_out_pairs_are_as_many_as_the_shares_allow_and_take_the_last_rows_of_each_slice(bound):
    step = mixed(held_out=0.25, fake_shares=(0.5, 0.5))  # 24, 6 and 16 rows are held out
    assert step.held_out_pairs == 12 and step.held_out_items == 2 * 12 * step.levels
    own = data(step, bound)
    found = own.held_out(torch.arange(step.held_out_items), step.levels)
    pairs = found.images.unflatten(0, (12, step.levels, 2))
    assert rows(pairs[:, 0, 0]) == list(range(72, 84))
    assert rows(pairs[:, 0, 1]) == [
        row for pair in zip(range(18, 24), range(48, 54), strict=True) for row in pair
    ]
    assert torch.equal(pairs, pairs[:, :1].expand_as(pairs))
    for stream in own.streams:
        stream.close()


class Exact(nn.Module):
    """The exact log-ratio, at the time that a discriminator receives."""

    def __init__(self, real: dg.GaussianMixture, model: dg.GaussianMixture) -> None:
        super().__init__()
        self.ratio = dg.MixtureRatio(real=real, model=model).build(image_size=1, channels=2, num_classes=0)

    def forward(self, y, time, labels):
        tau = time.double()
        return self.ratio(y, torch.expm1(0.1 * tau + 9.95 * tau**2).sqrt(), labels)


def test_the_held_out_pairs_are_calibrated_for_the_ratio_to_the_mixture_and_for_no_other():
    """With the exact log-ratio of real to the mixture, E[(sigmoid(logit) - is_real) f] = 0 for every function
    f of the noisy point; for the wrong mixture it is not. Here f is the side that the point lies on."""
    centres, std = ((-1.5, 0.0), (1.5, 0.0)), 0.5
    real = dg.GaussianMixture(means=centres, stds=(std, std), weights=(0.5, 0.5))
    sides = [dg.GaussianMixture(means=(centre,), stds=(std,), weights=(1.0,)) for centre in centres]
    points = [dg.MixturePoints(mixture=side, seed=1)[:1_000] for side in sides]
    step = dg.TrainDiscriminator(
        real=dg.MixturePoints(mixture=real)[:1_000],
        fake=tuple(points),
        fake_shares=(0.25, 0.75),
        network=dg.Perceptron(width=8, layers=1),
        conditional=False,
        held_out=0.5,
        epochs=1,
        images_per_epoch=64,
        sigma_min=0.1,
        sigma_max=2,
    )
    store = MemoryStore("plane")
    for part in (step.real, *points):
        complete(part, store)
    bound = complete(step, store)
    task = step.training_task(bound)
    items = torch.arange(step.held_out_items)

    def z(first: float) -> float:
        """Returns mean over standard error of (probability - is_real) where the logit favours the right
        side."""
        model = real.model_copy(update={"weights": (first, 1 - first)})
        values = task.measure(Exact(real, model), items)
        right = values["logit"] < 0
        residual = (values["logit"].sigmoid() - values["is_real"].double())[right]
        return float(residual.mean() / residual.std() * math.sqrt(len(residual)))

    assert abs(z(0.25)) < 4
    assert z(0.1) < -5 and z(0.4) > 5
    for stream in task.data:
        stream.close()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fake": ()}, "fake: expected one slice or more, found none"),
        ({"fake_shares": (0.5,)}, "one share for each of the 2 slices of fake, found 1"),
        ({"fake_shares": (0.5, 0.6)}, r"that add up to 1, such as \(0.5, 0.5\), found \(0.5, 0.6\)"),
        ({"fake_shares": (1.0, 0.0)}, "expected shares above 0"),
        ({"fake_shares": (0.99, 0.01)}, "one of the 8 fake rows .* none from fake.1, whose share is 0.01"),
        ({"fake": FAKES[0], "fake_shares": (1.0,)}, "several slices of fakes to share a batch, found one"),
        ({"fake": (IMAGES[:3], IMAGES[:96])}, "expected at least 4 to train on .* found 3 rows"),
    ],
)
def test_what_cannot_be_a_mixture_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        mixed(**fields)


def test_the_toy_of_a_mixture_has_a_row_of_each_part_in_a_batch():
    from dgflow.testing.smoke import smoke

    step = mixed(real=IMAGES[:5_000], fake=(IMAGES[:500],) * 6, fake_shares=(0.5, *(0.1,) * 5), batch_size=64)
    toy = smoke(step, "/nowhere").target
    assert isinstance(toy, dg.TrainDiscriminator)
    assert toy.batch_size == 12 and toy.fake_rows(6) == [1] * 6
