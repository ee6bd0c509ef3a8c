"""`verify` and its repair of a damaged root, on every backend: each damage is named, and mended or told why
not."""

from collections.abc import Iterator
from pathlib import Path
from threading import Barrier

import pytest
import tiny
from inprocess import complete

from dgflow import ImportImages
from dgflow.engine.root import Root
from dgflow.engine.verify import Verified, repair, verify
from dgflow.specs.bound import Bound
from dgflow.specs.graph import graph
from dgflow.specs.step import ResultStep, Slice, Spread
from dgflow.steps.sources import import_images
from dgflow.store.local import LocalStore
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.store.step_store import StepStore, read_rows

SAMPLES = 64  # two shards


class Means(ResultStep):
    """Reads the slice and keeps a number of every picture."""

    samples: Slice

    @property
    def title(self) -> str:
        return "means"

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        del spread, store
        return repr(
            [float(image.mean()) for piece in inputs.pieces("samples", ["image"]) for image in piece["image"]]
        ).encode()


@pytest.fixture
def target(tmp_path: Path) -> Means:
    return Means(samples=tiny.real(tiny.write_images(tmp_path / "images.npz"))[:SAMPLES])


@pytest.fixture
def made(target: Means, store: ObjectStore) -> Iterator[StepStore]:
    """The step that made the samples, in a root that is complete, and is as before after the test."""
    complete(target, store)
    steps = Root(store).step_store(target.samples.step)
    before, result = digests(steps), Root(store).step_store(target).committed("results")
    yield steps
    assert digests(steps) == before
    assert Root(store).step_store(target).committed("results") == result


def digests(steps: StepStore) -> list[str]:
    return [
        receipt.rows_sha256
        for receipt in steps.receipts([entry.key for entry in steps.store.list(f"{steps.name}/shards")])
    ]


def the(steps: StepStore, folder: str, number: int = 0) -> str:
    return [entry.key for entry in steps.store.list(f"{steps.name}/{folder}")][number]


def mended(target: Means, store: ObjectStore) -> Verified:
    def build() -> None:
        for node in graph(target):
            Root(store).step_store(node.step).declare(node.step.document())
        complete(target, store)

    return repair(target, store, lambda _: None, build)


def test_a_whole_root_has_nothing_to_tell(target: Means, made: StepStore) -> None:
    found = verify(target, made.store, lambda _: None)
    assert (found.checked, found.damaged, found.missing, found.records) == (
        4,
        [],
        [],
        [],
    )  # listing, two shards, means


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_damaged_data_is_named_and_comes_back_with_the_same_rows(
    target: Means, made: StepStore, damage: str
) -> None:
    key = the(made, "data", 1)
    data = made.store.get(key)
    if damage == "missing":
        made.store.delete(key)
    else:
        made.store.put(key, data[:-100] if damage == "truncated" else bytes([data[0] ^ 1]) + data[1:])
    (line,) = verify(target, made.store, lambda _: None).damaged
    assert f"{made.name} shards/00001" in line and key in line
    found = mended(target, made.store)
    assert (found.damaged, found.missing, found.checked) == ([], [], 4)
    assert made.store.get(key) == data


@pytest.mark.parametrize("record", ["shards", "manifests", "step.json"])
@pytest.mark.parametrize("kept", [0, 40])
def test_a_truncated_record_is_named_and_written_again(
    target: Means, made: StepStore, record: str, kept: int
) -> None:
    key = f"{made.name}/step.json" if record == "step.json" else the(made, record)
    data = made.store.get(key)
    made.store.put(key, data[:kept])
    found = verify(target, made.store, lambda _: None)
    assert [key in line for line in found.damaged] == [True]
    found = mended(target, made.store)
    assert (found.damaged, found.missing, found.checked) == ([], [], 4)
    if record != "shards":  # a receipt has times
        assert made.store.get(key) == data


def test_everything_damaged_at_once_is_found_and_mended_layer_by_layer(
    target: Means, made: StepStore
) -> None:
    store, own = made.store, Root(made.store).step_store(target)
    for key in (
        the(made, "manifests"),
        the(made, "shards"),
        the(made, "data", 1),
        the(own, "results"),
        f"{own.name}/step.json",
    ):
        store.put(key, b"{")
    found = mended(target, store)
    assert (found.damaged, found.missing, found.checked) == ([], [], 4)


def test_rows_that_come_out_otherwise_are_not_put_in_the_place_of_sealed_ones(
    target: Means, made: StepStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, receipt = the(made, "data"), the(made, "shards")
    made.store.put(data, b"damaged")
    builder = ImportImages.shard_builder

    def other(self: ImportImages, inputs: Bound):
        build = builder(self, inputs)
        return lambda start, stop: (rows := build(start, stop)) | {"image": 255 - rows["image"]}

    with monkeypatch.context() as patch:
        patch.setattr(import_images.ImportImages, "shard_builder", other)
        found = mended(target, made.store)
    (line,) = found.damaged
    assert f"{made.name} shards/00000: expected the rows with sha256" in line and "built on cpu with" in line
    assert found.records == [receipt]
    found = mended(target, made.store)  # where the rows come out as they were
    assert (found.damaged, found.missing) == ([], [])


def test_the_same_rows_in_other_bytes_are_sealed_again_with_the_same_digest(
    target: Means, made: StepStore
) -> None:
    """Another version of pyarrow writes such bytes."""
    key, manifest = (
        the(made, "shards"),
        Root(made.store).bind(target, {target.samples.step.fingerprint: _bound(target, made.store)}),
    )
    assert manifest is not None
    old = made.receipt(key)
    rows = made.read_shard(old)
    made.discard(key)
    fields = {
        name: getattr(old, name) for name in ("start", "stop", "inputs", "seconds", "device", "versions")
    }
    made.write_shard(0, rows, format="npz", **fields)
    (line,) = verify(target, made.store, lambda _: None).damaged
    assert the(made, "manifests") in line and old.key in line
    found = mended(target, made.store)
    assert (found.damaged, found.missing) == ([], [])
    again = made.manifest(0, SAMPLES, old.inputs)
    assert again is not None and again.digest == manifest.digests["samples"]
    assert sum(len(piece["index"]) for piece in read_rows(made, again, 0, SAMPLES)) == SAMPLES


def _bound(target: Means, store: ObjectStore) -> Bound:
    root, step = Root(store), target.samples.step
    known: dict[str, Bound | None] = {
        reference.step.fingerprint: Bound() for reference in step.inputs().values()
    }
    bound = root.bind(step, known)
    assert bound is not None
    return bound


def test_shards_are_read_at_the_same_time_and_what_is_wrong_is_told_in_their_order(
    target, tmp_path, monkeypatch
):
    store = open_store(str(tmp_path / "root"))
    complete(target, store)
    steps = Root(store).step_store(target.samples.step)
    for key in (the(steps, "data", 0), the(steps, "data", 1)):
        store.put(key, b"damaged")
    together, get = Barrier(2, timeout=60), LocalStore.get

    def met(self: LocalStore, key: str) -> bytes:
        if "/data/" in key and steps.name in key:
            together.wait()  # breaks, and with it the test, where one shard is read after the other
        return get(self, key)

    monkeypatch.setattr(LocalStore, "get", met)
    found = verify(target, store, lambda _: None)
    damaged = [line for line in found.damaged if "shards/" in line]
    assert [line.split("shards/")[1][:5] for line in damaged] == ["00000", "00001"]
