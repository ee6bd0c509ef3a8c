"""Checkpoints within an epoch: the cost of a kill, bit-identical resumption, and the choice among the states
of several trainings."""

import contextlib
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import tiny
import torch
from steps.streaming import numbered, sealed
from store.faults import Crash, FaultyStore

from dgflow import ImportImages, TrainDiscriminator, TrainScore
from dgflow.runtime.training import checkpoints
from dgflow.runtime.training.checkpoints import Checkpoints, Start
from dgflow.runtime.training.finiteness import Finite
from dgflow.runtime.training.loop import train
from dgflow.runtime.training.saver import Saver
from dgflow.runtime.training.syncs import EVERY, SECONDS, Syncs, Wish
from dgflow.specs.bound import Bound
from dgflow.specs.training_task import TrainingTask
from dgflow.steps.training.stream import Stream
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore
from dgflow.store.receipts import Receipt
from dgflow.store.step_store import StepStore

STEPS = 4  # per epoch


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Bound:
    images = dict(np.load(tiny.write_images(tmp_path_factory.mktemp("images") / "images.npz", count=64)))
    store = MemoryStore("within-inputs")
    other = images | {"image": 255 - images["image"]}
    return Bound({"real": sealed(store, images, 16), "fake": sealed(store, other, 16, name="1")})


def score(epochs: int = 2) -> TrainScore:
    step = tiny.score("unused.npz", epochs)  # type: ignore[arg-type]
    return step.model_copy(update={"images_per_epoch": 16 * STEPS})


def discriminator(epochs: int = 2) -> TrainDiscriminator:
    step = tiny.discriminator("unused.npz", epochs)  # type: ignore[arg-type]
    return step.model_copy(update={"images_per_epoch": 8 * STEPS})


def small() -> TrainingTask:
    """Returns a training of a few numbers, with every kind of state: two moments, an average, a held-out
    loss."""
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 1)

    def loss(network: torch.nn.Module, slots: torch.Tensor, step: int) -> torch.Tensor:
        return network(torch.stack([slots, slots * step, slots**2], dim=1).sin()).square()[:, 0]

    return TrainingTask(
        network=network,
        trained=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=0.1),
        batch_size=4,
        steps_per_epoch=STEPS,
        loss=loss,
        held_out=2,
        measure=lambda network, items: {"loss": network(items[:, None].expand(-1, 3).float())[:, 0]},
        summarise=lambda values: {"held_out_loss": float(values["loss"].mean())},
        ema_halflife=8,
    )


class Run:
    """Trainings in one root: the steps that they ran, counted over all epochs from 0."""

    def __init__(self, store: ObjectStore, task: Callable[[], TrainingTask] = small) -> None:
        self.task, self.steps = task, StepStore(store, "train-score", "a" * 64)

    def train(self, save=(), crash=None, scale=1.0, meanwhile=None, epochs=2) -> list[int]:
        """Trains; after the steps in `save`, counted from 1, a checkpoint is requested. `scale` changes the
        bits, as another device does; `meanwhile` is called instead of the step `crash`."""
        task, taken = self.task(), []
        loss = task.loss

        def watched(network, slots, number):
            if number == crash:
                if meanwhile is None:
                    raise Crash
                meanwhile()
            taken.append(number)
            return loss(network, slots, number) * scale

        def asks() -> Wish:
            return Wish(save=taken[-1] + 1 in save)

        task.loss = watched
        with contextlib.suppress(Crash):
            train(task, self.steps, {}, epochs=epochs, asks=asks)
        return taken

    def epochs(self) -> dict[int, Receipt]:
        return {number: self.steps.receipt(key) for number, key in self.steps.done("epochs", {}).items()}

    def digests(self) -> dict[int, tuple[str, float, float]]:
        """Returns the digest of the weights, and the losses, by epoch."""
        names = ("train_loss", "held_out_loss")
        return {
            number: (receipt.rows_sha256, *(receipt.metrics[name] for name in names))
            for number, receipt in self.epochs().items()
        }

    def within(self) -> list[int]:
        return sorted(self.steps.committed("steps"))


@pytest.fixture(scope="module")
def undisturbed():
    run = Run(MemoryStore("undisturbed"))
    run.train()
    return run.digests()


@pytest.mark.parametrize("kind", [score, discriminator, None])
def test_a_kill_costs_the_steps_since_the_checkpoint_and_changes_no_bit_and_no_loss(inputs, kind):
    name, task = (kind.__name__, partial(kind().training_task, inputs)) if kind else ("small", small)
    calm, run = (Run(MemoryStore(f"{each}-{name}"), task) for each in ("calm", "killed"))
    calm.train()
    assert run.train(save=[1, 6], crash=7) == [0, 1, 2, 3, 4, 5, 6]
    assert run.within() == [6]  # the checkpoint of the finished epoch is removed
    assert run.train() == [6, 7]
    assert run.digests() == calm.digests()
    assert run.within() == []


def test_the_newest_two_are_kept_and_a_torn_one_is_passed_over_for_the_one_before(undisturbed, caplog):
    store = MemoryStore("torn")
    run = Run(store)
    run.train(save=[5, 6, 7], crash=7)
    assert run.within() == [6, 7]
    [key] = run.steps.committed("steps")[7].values()
    data = run.steps.receipt(key).key
    store.put(data, store.get(data)[:100])
    assert run.train() == [6, 7]
    assert "the checkpoint steps/00007-" in caplog.text
    assert run.digests() == undisturbed


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_any_request_ends_in_the_same_bits(undisturbed, when):
    requests = 0
    while True:
        inner = MemoryStore(f"crash-{when}-{requests}")
        store = FaultyStore(inner, requests, when)
        Run(store).train(save=[2, 6])
        if store.operations <= requests:
            break
        requests += 1
        calm = Run(inner)
        calm.train()
        assert calm.digests() == undisturbed
        assert calm.within() == []
    assert requests > 20  # every request was tested


def test_another_world_size_has_other_names():
    steps = Run(MemoryStore("sizes")).steps
    kept = Checkpoints(steps, {}, STEPS)
    kept.newest(0)
    device = torch.device("cpu")
    for workers in (1, 2):
        kept.save(3, {"totals": torch.full((workers,), float(workers))}, workers, 1.0, device)
    assert len(steps.committed("steps")[3]) == 2
    start = Checkpoints(steps, {}, STEPS).newest(0)
    assert start.steps == 3 and start.tensors is not None
    assert len(start.tensors["totals"]) in (1, 2)


def test_a_training_whose_epoch_another_has_committed_in_other_bits_stops_and_goes_on_from_that():
    """As on GPUs, both trainings have the same epoch 1; the other commits epochs 2 and 3 while the first is
    paused."""
    store = MemoryStore("two")
    first = Run(store)
    first.train(epochs=1)
    alone = MemoryStore("one")
    for entry in store.list(""):
        alone.put(entry.key, store.get(entry.key))
    other = Run(store)
    taken = first.train(epochs=4, crash=5, meanwhile=lambda: other.train(scale=1.5, epochs=3))
    assert taken == [4, 5, 6, 7]  # and not epoch 3 from uncommitted weights
    expected = Run(alone)
    expected.train(scale=1.5, epochs=3)
    assert first.digests() == expected.digests()
    assert first.train(epochs=4) == [12, 13, 14, 15]
    expected.train(epochs=4)
    assert first.digests() == expected.digests()
    assert sorted(first.steps.committed("checkpoints")) == [3, 4]
    assert first.within() == []


def test_epochs_whose_checkpoints_are_all_lost_are_trained_again_whatever_their_bits(caplog):
    run = Run(MemoryStore("lost"))
    run.train()
    before = run.epochs()
    for keys in run.steps.committed("checkpoints").values():
        for key in keys.values():
            run.steps.discard(key)
    assert run.train(scale=1.5, epochs=3) == list(range(3 * STEPS))
    assert {number: run.epochs()[number] for number in before} == before and len(run.epochs()) == 3
    assert "epoch 2 is committed with other weights, whose checkpoint is lost" in caplog.text


def test_the_checkpoint_of_an_earlier_version_whose_name_has_no_weights_is_gone_on_from(undisturbed):
    run = Run(MemoryStore("earlier"))
    run.train(epochs=1)
    start = Checkpoints(run.steps, {}, STEPS).newest(1)
    assert start.tensors is not None
    [key] = run.steps.committed("checkpoints")[1].values()
    run.steps.discard(key)
    checkpoints.commit(run.steps, "checkpoints", 1, start.tensors, {}, 0.0, {}, torch.device("cpu"))
    assert run.train() == [4, 5, 6, 7]
    assert run.digests() == undisturbed


def test_the_first_batch_in_the_middle_of_a_pass_reads_the_shards_of_its_lanes_alone(monkeypatch):
    step = TrainScore(
        real=ImportImages(source="unused.npz", num_classes=10, image_size=1, channels=3)[:1024],
        batch_size=2,
        held_out=0.0,
    )
    bound, read = Bound({"real": sealed(MemoryStore("pass"), numbered(1024), 8)}), []
    stream = Stream(step, bound, "real", num_classes=0, device=torch.device("cpu"))
    whole = StepStore.read_shard
    monkeypatch.setattr(
        StepStore, "read_shard", lambda self, *given: read.append(given[0].number) or whole(self, *given)
    )
    stream.take(300, torch.arange(2))
    stream.close()
    assert len(set(read)) <= 2 * 2 + 2  # of 128: two lanes' shards, the next ones, and prefetched batches


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Written:
    """Replaces the checkpoints: each takes 30 seconds to write."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.times = clock, []

    def save(self, *_) -> None:
        self.times.append(self.clock.now)
        self.clock.now += 30


def test_a_checkpoint_is_due_an_interval_after_the_end_of_the_last_and_of_an_epoch():
    clock = Clock()
    written = Written(clock)
    saver = Saver(written, 600, clock)  # type: ignore[arg-type]
    due = []
    for second in range(0, 1800, 10):
        clock.now = max(clock.now, float(second))
        if second == 1500:
            saver.restart()
        if saver.due:
            due.append(second)
            saver.save(second, {}, 1, 0.0, torch.device("cpu"))
            saver.wait()
    assert due == written.times == [600, 1230]
    assert not Saver(written, 0, clock).due  # type: ignore[arg-type]
    saver.close()


def test_a_checkpoint_that_cannot_be_written_is_a_warning(caplog):
    class Full(Checkpoints):
        def save(self, *_) -> None:
            raise OSError("no space left on device")

    saver = Saver(Full(Run(MemoryStore("full")).steps, {}, STEPS), 600)
    saver.save(3, {}, 1, 0.0, torch.device("cpu"))
    saver.wait()
    assert "the checkpoint after step 3 could not be written: no space left" in caplog.text
    assert saver.safe == 0
    saver.close()


@pytest.mark.parametrize(("seconds", "apart"), [(0.01, EVERY), (1.0, 5), (20.0, 1)])
def test_several_workers_look_every_few_seconds_and_every_ten_steps_at_least(monkeypatch, seconds, apart):
    clock, seen = Clock(), []
    monkeypatch.setattr("torch.distributed.all_reduce", lambda told: seen.append(step))
    finite = Finite(TaskOf(200), "train", 1)  # type: ignore[arg-type]
    syncs = Syncs(finite, 0, 2, 0, clock)
    for step in range(1, 101):
        clock.now += seconds
        syncs.after(step, torch.zeros((), dtype=torch.float64), Wish)
    assert seen[0] == EVERY
    assert set(np.diff(seen)) == {apart} and SECONDS == 5


class TaskOf:
    def __init__(self, steps: int) -> None:
        self.steps_per_epoch = steps


def test_nothing_to_go_on_from_is_the_beginning():
    assert Checkpoints(Run(MemoryStore("none")).steps, {}, STEPS).newest(0) == Start()
