"""A range of samples reads a part of a large shard, on a disk and in S3; a damaged one is an error; what a
run adds is seen."""

from pathlib import Path

import numpy as np
import pytest

from dgflow.client.samples import SampleStream
from dgflow.files import locations
from dgflow.files.locations import S3Location
from dgflow.store.local import LocalStore
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.store.receipts import CorruptObject
from dgflow.store.step_store import StepStore

ROWS = 500
IMAGES = np.random.default_rng(0).integers(0, 256, (ROWS, 128, 128, 3)).astype(np.uint8)  # 24.6 MB of noise


def written(store: ObjectStore) -> StepStore:
    """A step with one shard of noise, whose row groups have 8 MiB."""
    step_store = StepStore(store, "generate", "a" * 64)
    add(step_store, 0)
    return step_store


def add(step_store: StepStore, number: int) -> None:
    start = number * ROWS
    columns = {"index": np.arange(start, start + ROWS), "label": np.arange(ROWS) % 10, "image": IMAGES}
    step_store.write_shard(
        number, columns, start=start, stop=start + ROWS, inputs={}, seconds=0.0, device="cpu", versions={}
    )


def stream(step_store: StepStore) -> SampleStream:
    return SampleStream(
        step_store,
        lambda: {number: step_store.receipt(key) for number, key in step_store.newest("shards").items()},
    )


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes that are read of files and objects by ranges, as they come."""
    found: list[int] = []
    pread, of_s3 = locations.os.pread, S3Location._range

    def local(descriptor: int, count: int, offset: int) -> bytes:
        found.append(count)
        return pread(descriptor, count, offset)

    def remote(self: S3Location, key: str, start: int, stop: int) -> bytes:
        found.append(stop - start)
        return of_s3(self, key, start, stop)

    monkeypatch.setattr(locations.os, "pread", local)
    monkeypatch.setattr(S3Location, "_range", remote)
    return found


def check(step_store: StepStore, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, read = stream(step_store), counted(monkeypatch)
    (shard,) = samples.shards
    part = samples[100:116]
    assert (part.images == IMAGES[100:116]).all() and part.index.tolist() == list(range(100, 116))
    assert 0.2 * shard.bytes < sum(read) < 0.45 * shard.bytes  # one row group of three
    read.clear()
    assert samples.read(slice(100, 116), ["label"]).labels.tolist() == [number % 10 for number in range(16)]
    assert 0 < sum(read) < 0.1 * shard.bytes


def test_a_range_of_a_local_shard_reads_a_part_of_it(tmp_path, monkeypatch):
    check(written(LocalStore(tmp_path)), monkeypatch)


def test_a_range_of_a_shard_in_s3_reads_a_part_of_it(s3_url, monkeypatch):
    check(written(open_store(s3_url)), monkeypatch)


def test_a_damaged_or_missing_shard_is_an_error_that_says_so(tmp_path):
    step_store = written(LocalStore(tmp_path))
    samples = stream(step_store)
    file = Path(tmp_path, samples.shards[0].key)
    whole = file.read_bytes()
    at = len(whole) // 6  # in the first row group
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(CorruptObject, match="found .* bytes with sha256 .*; run `verify`"):
        samples[100:116]
    assert (samples[400:416].images == IMAGES[400:416]).all()  # another row group, which is whole
    with pytest.raises(CorruptObject):
        samples[0:ROWS]
    file.unlink()
    with pytest.raises(CorruptObject, match="found nothing"):
        samples[100:116]


def test_shards_that_a_run_adds_are_seen(tmp_path):
    step_store = written(LocalStore(tmp_path))
    samples = stream(step_store)
    assert len(samples) == ROWS
    with pytest.raises(ValueError, match=r"expected committed samples \[490:510\] .*, found \[0:500\]"):
        samples[490:510]
    add(step_store, 1)
    assert len(samples) == 2 * ROWS and samples[490:510].index.tolist() == list(range(490, 510))


def test_a_column_of_whole_shards_is_read_without_the_images(tmp_path, monkeypatch):
    step_store = written(LocalStore(tmp_path))
    samples, read = stream(step_store), counted(monkeypatch)
    monkeypatch.setattr(StepStore, "read", lambda self, entry: pytest.fail("the whole shard is read"))
    assert samples.read(columns="label").labels.tolist() == [number % 10 for number in range(ROWS)]
    assert 0 < sum(read) < 0.1 * samples.shards[0].bytes


def test_a_walk_over_samples_lists_the_shards_once(tmp_path):
    step_store, listings = written(LocalStore(tmp_path)), []
    add(step_store, 1)
    receipts = {n: step_store.receipt(key) for n, key in step_store.newest("shards").items()}
    samples = SampleStream(step_store, lambda: listings.append(1) or receipts)
    assert [len(part) for part in samples] == [ROWS, ROWS] and len(listings) == 1
