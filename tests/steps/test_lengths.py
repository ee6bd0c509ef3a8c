"""Growing streams: with more samples, a step that maps a slice makes only the difference, and copies the rest
from the shorter one, bit-identical to a full build."""

from __future__ import annotations

from typing import ClassVar
from uuid import uuid4

import numpy as np
import pytest
from inprocess import complete
from steps.importing import Take
from steps.toy_networks import SD, pretrained

import dgflow as dg
from dgflow.engine.plan import StepPlan, plan
from dgflow.engine.root import Root
from dgflow.engine.shard_work import shard_work
from dgflow.engine.verify import verify
from dgflow.specs.step import Result, ResultStep, SampleStep, Slice
from dgflow.store.memory import MemoryStore
from dgflow.store.receipts import Receipt

built: list[tuple[str, int, int]] = []  # every shard that a step below has built


class Trained(ResultStep):
    """A file that differs after each training, as weights do."""

    content: ClassVar[bytes] = b"first"

    def compute(self, inputs, spread, store) -> bytes:
        return self.content


class Stream(SampleStep):
    """An endless stream of numbers that depend on the index and on the training."""

    by: Result
    shard_size: int = 4

    def shard_builder(self, inputs):
        shift = len(inputs.result("by"))

        def rows(start, stop):
            built.append(("stream", start, stop))
            index = np.arange(start, stop)
            return {"index": index, "value": index * 10 + shift}

        return rows


class Twice(SampleStep):
    """Twice the values of a slice."""

    maps: ClassVar[str] = "values"

    values: Slice
    plus: int = 0
    shard_size: int = 4

    @property
    def length(self):
        return self.values.rows

    def shard_builder(self, inputs):
        def rows(start, stop):
            built.append((f"twice of {self.values.step.kind}", start, stop))
            value = inputs.rows("values", ["value"], start, stop)["value"]
            return {"index": np.arange(start, stop), "value": 2 * value + self.plus}

        return rows


STREAM = Stream(by=Trained().result())


def twice(stop: int, start: int = 0, **fields) -> Twice:
    return Twice(values=STREAM[start:stop], **fields)


def four_times(stop: int) -> Twice:
    """A chain of two steps, each of which depends on the length of the one before."""
    return Twice(values=twice(stop).all())


@pytest.fixture(autouse=True)
def nothing_built(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Trained, "content", b"first")
    built.clear()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(uuid4().hex)


def run(step: SampleStep, store: MemoryStore) -> list[tuple[str, int, int]]:
    """Runs the step; returns the shards that had to be built."""
    built.clear()
    complete(Take(images=step.all()), store)
    return list(built)


def digest_of(step: SampleStep, store: MemoryStore) -> str:
    return complete(Take(images=step.all()), store).items["images"].digest


def receipts(step: SampleStep, store: MemoryStore) -> list[Receipt]:
    steps = Root(store).step_store(step)
    return steps.receipts([*steps.newest("shards").values()])


def state_of(step: SampleStep, store: MemoryStore) -> StepPlan:
    return next(each for each in plan(Take(images=step.all()), store) if each.step == step)


def test_more_samples_make_the_difference_alone_and_the_rows_of_a_run_that_began_with_all(store):
    assert run(four_times(8), store) == [
        (name, start, start + 4)
        for name in ("stream", "twice of stream", "twice of twice")
        for start in (0, 4)
    ]
    assert run(four_times(16), store) == [
        (name, start, start + 4)
        for name in ("stream", "twice of stream", "twice of twice")
        for start in (8, 12)
    ]
    assert digest_of(four_times(16), store) == digest_of(four_times(16), MemoryStore(uuid4().hex))
    assert verify(Take(images=four_times(16).all()), store, lambda line: None).damaged == []


def test_fewer_samples_make_nothing(store):
    run(four_times(16), store)
    assert run(four_times(8), store) == []
    assert digest_of(four_times(8), store) == digest_of(four_times(8), MemoryStore(uuid4().hex))


def test_the_last_shard_of_the_shorter_one_which_has_fewer_rows_is_made_anew(store):
    run(four_times(10), store)
    assert run(four_times(14), store) == [
        ("stream", 12, 16),
        *(
            (f"twice of {kind}", start, min(start + 4, 14))
            for kind in ("stream", "twice")
            for start in (8, 12)
        ),
    ]
    assert digest_of(four_times(14), store) == digest_of(four_times(14), MemoryStore(uuid4().hex))


def test_a_source_that_was_trained_anew_is_never_mixed_in(store, monkeypatch):
    run(four_times(8), store)
    trained = Root(store).step_store(Trained())
    for key in trained.committed("results")[0].values():
        trained.discard(key)
    monkeypatch.setattr(Trained, "content", b"second")
    assert len(run(four_times(16), store)) == 12  # all shards of all three
    fresh = MemoryStore(uuid4().hex)
    assert digest_of(four_times(16), store) == digest_of(four_times(16), fresh)


@pytest.mark.parametrize(
    "other", [twice(8, plus=1), twice(12, start=4), twice(8, shard_size=2)], ids=["field", "start", "shards"]
)
def test_what_differs_in_more_than_the_length_is_not_copied(store, other):
    run(other, store)
    complete(Take(images=STREAM[:16]), store)
    assert run(twice(16), store) == [("twice of stream", start, start + 4) for start in (0, 4, 8, 12)]


def test_a_run_that_was_killed_in_the_middle_goes_on_with_what_is_left(store):
    run(twice(8), store)
    complete(Take(images=STREAM[:16]), store)
    step, state = twice(16), state_of(twice(16), store)
    assert state.bound is not None and sorted(state.copies) == [0, 1]
    steps = Root(store).step_store(step)
    steps.declare(step.document())
    work = shard_work(step, steps, state.bound, None, state.copies)
    built.clear()
    work(1)  # is copied
    work(2)  # is built; then the process ends
    assert built == [("twice of stream", 8, 12)]
    again = state_of(step, store)
    assert (sorted(again.done), sorted(again.copies), again.amount) == ([1, 2], [0], 4)
    assert run(step, store) == [("twice of stream", 12, 16)]


def test_a_shard_that_is_damaged_or_gone_by_the_time_is_made(store, caplog):
    run(twice(8), store)
    complete(Take(images=STREAM[:16]), store)
    step, state = twice(16), state_of(twice(16), store)
    first, second = receipts(twice(8), store)
    store.put(first.key, b"damaged")
    store.delete(second.key)
    steps = Root(store).step_store(step)
    assert state.bound is not None
    work = shard_work(step, steps, state.bound, None, state.copies)
    built.clear()
    work(0)
    work(1)
    assert built == [("twice of stream", 0, 4), ("twice of stream", 4, 8)]
    assert "shards/00000 cannot be copied and is rebuilt" in caplog.text


def test_a_damaged_record_of_the_other_step_stops_nothing(store, caplog):
    run(twice(8), store)
    for key in (
        each
        for keys in Root(store).step_store(twice(8)).committed("shards").values()
        for each in keys.values()
    ):
        store.put(key, b"{}")
    assert len(run(twice(16), store)) == 2 + 4
    store.put(f"{twice(8).name}/step.json", b"damaged")
    assert len(run(twice(12), store)) == 0  # copied from the longer one
    assert "nothing is copied from" in caplog.text


def test_a_copy_has_the_record_of_what_made_it_and_says_where_it_comes_from(store):
    run(twice(8), store)
    run(twice(16), store)
    kept = {"rows_sha256", "sha256", "seconds", "device", "versions", "start", "stop", "bytes"}
    (first, *_), (copy, _, made, _) = receipts(twice(8), store), receipts(twice(16), store)
    assert copy.model_dump(include=kept) == first.model_dump(include=kept)
    assert copy.metrics == {"copied_from": twice(8).name} and made.metrics == {}
    assert copy.key.startswith(f"{twice(16).name}/data/")  # so that either step can be removed


def test_a_plan_tells_what_is_copied_and_counts_the_work_of_the_rest(store):
    run(twice(8), store)
    waiting = state_of(twice(16), store)
    assert waiting.reason.endswith(
        "up to 2 shards are copied from a step of another length if made from the same samples"
    )
    complete(Take(images=STREAM[:16]), store)
    ready = state_of(twice(16), store)
    assert (ready.action, ready.amount, len(ready.missing)) == ("extend", 8, 4)
    assert ready.reason == f"0 of 4 shards are done; 2 are copied from {twice(8).name}, of another length"


def test_decoded_samples_and_latents_read_from_a_source_grow_bit_for_bit(tmp_path, store, monkeypatch):
    """Covers Decode, and Encode without stored pixels, whose inputs do not contain the length."""
    np.savez(
        tmp_path / "images.npz",
        image=np.random.default_rng(1).integers(0, 256, (12, 16, 16, 3), np.uint8),
        label=np.arange(12) % 3,
    )
    images = dg.ImportImages(source=str(tmp_path / "images.npz"), num_classes=3, image_size=16)
    vae = pretrained(tmp_path, "vae", network=SD, image_size=16).weights()

    def steps(count: int) -> tuple[dg.Encode, dg.Decode]:
        encoded = dg.Encode(images=images[:count], vae=vae, shard_size=4, keep_pixels=False)
        return encoded, dg.Decode(latents=encoded.all(), vae=vae, shard_size=4)

    made: list[tuple[str, int]] = []
    for kind in (dg.Encode, dg.Decode):

        def counting(self, inputs, builder=kind.shard_builder):
            rows = builder(self, inputs)
            return lambda start, stop: (made.append((self.kind, start)), rows(start, stop))[1]

        monkeypatch.setattr(kind, "shard_builder", counting)
    complete(Take(images=steps(4)[1].all()), store)
    made.clear()
    grown = digest_of(steps(12)[1], store)
    assert sorted(made) == [("decode", 4), ("decode", 8), ("encode", 4), ("encode", 8)]
    assert grown == digest_of(steps(12)[1], MemoryStore(uuid4().hex))
