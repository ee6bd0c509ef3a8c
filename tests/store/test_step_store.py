"""Commit, retry, race, staleness, sealing and corruption of one step, on every backend."""

import json
import re
import threading
import uuid

import numpy as np
import pytest
from notes import attempts
from store.step_examples import DOCUMENT, INPUTS, OTHER_INPUTS, ROWS, rows, same_rows, step, write

from dgflow.store.identity import canonical_json, fingerprint, sha256_hex
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.store.receipts import CorruptObject, Manifest, Receipt, StepMismatch, parse_record
from dgflow.store.shards import rows_sha256
from dgflow.store.step_store import StepStore, read_rows


@pytest.fixture
def steps(store: ObjectStore) -> StepStore:
    return step(store)


@pytest.fixture
def in_memory() -> StepStore:
    """A step in memory, for behaviour independent of the backend."""
    return step(open_store(f"memory://{uuid.uuid4().hex}"))


def sealed(steps: StepStore, shards: int = 3, stop: int | None = None) -> Manifest:
    keys = [
        f"{steps.name}/{write(steps, number).part}-{fingerprint(INPUTS)[:16]}.json"
        for number in range(shards)
    ]
    return steps.seal(0, stop or shards * ROWS, INPUTS, keys)


def test_a_committed_shard_is_where_the_layout_says_and_reads_back(steps: StepStore) -> None:
    receipt = write(steps, 42)
    key = f"{steps.name}/shards/00042-{fingerprint(INPUTS)[:16]}.json"
    assert steps.name == f"generate-{fingerprint(DOCUMENT)[:12]}"
    assert receipt.key == f"{steps.name}/data/00042-{receipt.sha256[:16]}.parquet"
    assert (receipt.part, receipt.start, receipt.stop, receipt.metrics) == (
        "shards/00042",
        168,
        172,
        {"nfe": 35},
    )
    assert sha256_hex(steps.store.get(receipt.key)) == receipt.sha256
    assert receipt.rows_sha256 == rows_sha256(rows(42))
    assert steps.committed("shards") == {42: {fingerprint(INPUTS)[:16]: key}}
    assert steps.receipt(key) == receipt
    assert same_rows(steps.read_shard(receipt), rows(42))


def test_some_columns_can_be_read_without_the_others(in_memory: StepStore) -> None:
    receipt = write(in_memory, 0)
    assert in_memory.read_shard(receipt, ["log_ratio"]).keys() == {"log_ratio"}
    with pytest.raises(ValueError, match="there is no 'latent'"):
        in_memory.read_shard(receipt, ["latent"])


def test_an_artefact_lies_beside_the_shards_under_its_own_folder(steps: StepStore) -> None:
    common = {"inputs": {}, "seconds": 1.0, "device": "cpu", "versions": {}}
    receipt = steps.commit(
        "epochs", 7, b"weights", suffix=".safetensors", rows_sha256=sha256_hex(b"weights"), **common
    )
    assert receipt.key == f"{steps.name}/data/epochs-00007-{sha256_hex(b'weights')[:16]}.safetensors"
    assert (receipt.part, receipt.start, receipt.stop) == ("epochs/00007", None, None)
    assert steps.read(receipt) == b"weights"
    assert list(steps.done("epochs", {})) == [7]
    assert steps.committed("shards") == {}


def test_a_repeated_attempt_returns_the_receipt_that_stands(steps: StepStore) -> None:
    first = write(steps, 0)
    assert write(steps, 0) == first
    assert len(steps.store.list(f"{steps.name}/shards")) == len(steps.store.list(f"{steps.name}/data")) == 1


def test_a_late_writer_with_other_bytes_alters_nothing(steps: StepStore) -> None:
    first = write(steps, 0)
    before = {entry.key: steps.store.get(entry.key) for entry in steps.store.list(steps.name)}
    assert write(steps, 0, salt=1) == first
    assert {key: steps.store.get(key) for key in before} == before
    assert same_rows(steps.read_shard(first), rows(0))


def test_a_late_writer_of_another_file_format_alters_nothing(in_memory: StepStore) -> None:
    first = write(in_memory, 0)
    assert write(in_memory, 0, format="npz") == first
    assert same_rows(in_memory.read_shard(first), rows(0))


def test_shards_can_be_npz(in_memory: StepStore) -> None:
    receipt = write(in_memory, 0, format="npz")
    assert receipt.key.endswith(".npz")
    assert same_rows(in_memory.read_shard(receipt), rows(0))
    assert in_memory.read_shard(receipt, ["index"]).keys() == {"index"}


def test_of_racing_writers_with_different_rows_all_return_one_receipt(steps: StepStore) -> None:
    receipts = []
    gate = threading.Barrier(4)

    def writer(salt: int) -> None:
        gate.wait()
        receipts.append(write(steps, 0, salt=salt))

    threads = [threading.Thread(target=writer, args=(salt,)) for salt in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(receipts) == 4
    assert all(receipt == receipts[0] for receipt in receipts)
    assert len(steps.store.list(f"{steps.name}/shards")) == 1
    assert rows_sha256(steps.read_shard(receipts[0])) == receipts[0].rows_sha256


def test_what_was_made_from_other_inputs_is_neither_done_nor_in_the_way(steps: StepStore) -> None:
    stale = write(steps, 0, inputs=OTHER_INPUTS)
    assert steps.done("shards", INPUTS) == {}
    fresh = write(steps, 0, salt=1)
    assert (fresh.inputs, stale.inputs) == (INPUTS, OTHER_INPUTS)
    assert steps.done("shards", INPUTS).keys() == steps.done("shards", OTHER_INPUTS).keys() == {0}
    assert same_rows(steps.read_shard(fresh), rows(0, salt=1))
    assert same_rows(steps.read_shard(stale), rows(0))


def test_bad_rows_are_refused_before_anything_is_written(in_memory: StepStore) -> None:
    bad = rows(0)
    bad["log_ratio"][2] = np.nan
    with pytest.raises(
        ValueError, match=r"column 'log_ratio': expected finite values, found NaN or infinity at index 2"
    ):
        in_memory.write_shard(
            0, bad, start=0, stop=ROWS, inputs=INPUTS, seconds=1.0, device="cpu", versions={}
        )
    assert in_memory.store.list("") == []


def test_a_metric_without_a_stable_form_is_refused_before_anything_is_written(in_memory: StepStore) -> None:
    with pytest.raises(ValueError, match=r"metrics\.loss: expected .* found the float nan"):
        in_memory.commit(
            "epochs",
            0,
            b"x",
            suffix="bin",
            rows_sha256="0" * 64,
            inputs={},
            seconds=1.0,
            device="",
            versions={},
            metrics={"loss": np.nan},
        )
    assert in_memory.store.list("") == []


def test_scratch_can_be_discarded_with_its_data_and_written_anew(steps: StepStore) -> None:
    receipt = write(steps, 0)
    key = steps.done("shards", INPUTS)[0]
    steps.discard(key)
    steps.discard(key)
    assert steps.store.list(f"{steps.name}/data") == steps.store.list(f"{steps.name}/shards") == []
    assert write(steps, 0).rows_sha256 == receipt.rows_sha256


def test_receipts_come_in_the_order_of_their_keys(steps: StepStore) -> None:
    for number in (2, 0, 1):
        write(steps, number)
    keys = [steps.done("shards", INPUTS)[number] for number in (1, 2, 0)]
    assert [receipt.number for receipt in steps.receipts(keys)] == [1, 2, 0]


def test_declaring_twice_is_fine_and_is_recorded_once(steps: StepStore) -> None:
    assert steps.recorded() is None
    steps.declare(DOCUMENT)
    steps.declare(json.loads(json.dumps(DOCUMENT)))
    assert steps.recorded() == {"fingerprint": fingerprint(DOCUMENT), "document": DOCUMENT}
    assert steps.store.get(f"{steps.name}/step.json").decode() == canonical_json(steps.recorded())


def test_a_different_step_under_the_same_name_is_an_error_that_names_the_field(steps: StepStore) -> None:
    steps.declare(DOCUMENT)
    changed = {"kind": "generate", "fields": {"seed": 1, "sampler": {"steps": 35}}}
    with pytest.raises(
        StepMismatch,
        match=r"document\.fields\.sampler\.steps: recorded 18, now 35\. Use another root, undo the change",
    ):
        steps.declare(changed)
    assert steps.recorded() == {"fingerprint": fingerprint(DOCUMENT), "document": DOCUMENT}


def test_two_fingerprints_with_the_same_first_digits_are_told_apart(in_memory: StepStore) -> None:
    in_memory.declare(DOCUMENT)
    twin = StepStore(in_memory.store, "generate", in_memory.fingerprint[:12] + "0" * 52)
    with pytest.raises(
        StepMismatch, match=f'fingerprint: recorded "{in_memory.fingerprint}", now "{twin.fingerprint}"'
    ):
        twin.declare(DOCUMENT)


def test_a_sealed_slice_lists_its_whole_shards_and_readers_trim(steps: StepStore) -> None:
    manifest = sealed(steps, shards=3, stop=10)
    assert steps.manifest(0, 10, INPUTS) == manifest
    assert [(entry.number, entry.start, entry.stop) for entry in manifest.entries] == [
        (0, 0, 4),
        (1, 4, 8),
        (2, 8, 12),
    ]
    parts = list(read_rows(steps, manifest, 3, 10))
    assert [part["index"].tolist() for part in parts] == [[3], [4, 5, 6, 7], [8, 9]]
    assert same_rows(parts[1], rows(1))
    assert np.array_equal(parts[2]["image"], rows(2)["image"][:2])
    assert [list(part) for part in read_rows(steps, manifest, 4, 8, ["image"])] == [["image"]]


def test_reading_outside_a_sealed_slice_is_an_error(in_memory: StepStore) -> None:
    manifest = sealed(in_memory, shards=3, stop=10)
    for start, stop in ((-1, 4), (0, 11), (4, 4)):
        with pytest.raises(ValueError, match=r"expected a range within the sealed samples \[0, 10\)"):
            list(read_rows(in_memory, manifest, start, stop))


def test_a_slice_may_begin_inside_a_shard(in_memory: StepStore) -> None:
    sealed(in_memory)
    keys = list(in_memory.done("shards", INPUTS).values())
    manifest = in_memory.seal(5, 9, INPUTS, keys[1:])
    assert np.concatenate([part["index"] for part in read_rows(in_memory, manifest, 5, 9)]).tolist() == [
        5,
        6,
        7,
        8,
    ]


def test_sealing_again_is_fine_and_sealing_otherwise_is_an_error(steps: StepStore) -> None:
    manifest = sealed(steps)
    assert sealed(steps) == manifest
    key = f"{steps.name}/manifests/0-12-{fingerprint(INPUTS)[:16]}.json"
    other = json.loads(steps.store.get(key))
    other["entries"][1]["rows_sha256"] = "f" * 64
    steps.store.put(key, canonical_json(other).encode())
    with pytest.raises(
        StepMismatch, match=r"was sealed with other shards: entries\[1\]\.rows_sha256: recorded \"ffff"
    ):
        sealed(steps)


def test_a_slice_is_not_sealed_for_other_inputs_or_another_range(steps: StepStore) -> None:
    sealed(steps)
    assert steps.manifest(0, 12, OTHER_INPUTS) is None
    assert steps.manifest(0, 8, INPUTS) is None


@pytest.mark.parametrize(
    ("numbers", "stop", "message"),
    [
        ([0, 2], 12, r"expected a shard that begins at 4, found \[8, 12\)"),
        ([0, 1, 1, 2], 12, r"expected a shard that begins at 8, found \[4, 8\)"),
        ([1, 0, 2], 12, r"expected a shard that begins at 8, found \[0, 4\)"),
        ([0, 1], 12, r"expected whole shards that hold \[0, 12\) and no more, found \[0, 8\)"),
        ([0, 1, 2], 8, r"expected whole shards that hold \[0, 8\) and no more, found \[0, 12\)"),
        ([1, 2], 12, r"expected whole shards that hold \[0, 12\) and no more, found \[4, 12\)"),
        ([], 12, r"expected shards that hold \[0, 12\), found none"),
    ],
)
def test_shards_that_do_not_make_up_the_slice_are_refused(
    in_memory: StepStore, numbers: list[int], stop: int, message: str
) -> None:
    for number in range(3):
        write(in_memory, number)
    done = in_memory.done("shards", INPUTS)
    with pytest.raises(ValueError, match=message):
        in_memory.seal(0, stop, INPUTS, [done[number] for number in numbers])
    assert in_memory.store.list(f"{in_memory.name}/manifests") == []


def test_a_shard_made_from_other_inputs_cannot_be_sealed(in_memory: StepStore) -> None:
    write(in_memory, 0, inputs=OTHER_INPUTS)
    with pytest.raises(
        ValueError,
        match='expected a shard made from the inputs of this slice, found others: score: recorded "1111',
    ):
        in_memory.seal(0, 4, INPUTS, list(in_memory.done("shards", OTHER_INPUTS).values()))


@pytest.mark.parametrize(("damage", "found"), [("delete", "nothing"), ("truncate", r"\d+ bytes")])
def test_a_slice_with_missing_or_short_data_cannot_be_sealed(
    steps: StepStore, damage: str, found: str
) -> None:
    receipt = write(steps, 0)
    if damage == "delete":
        steps.store.delete(receipt.key)
    else:
        steps.store.put(receipt.key, steps.store.get(receipt.key)[:-1])
    expected = rf"expected {receipt.bytes} bytes at {receipt.key} in .*, found {found}"
    message = rf"{steps.name} shards/00000: {expected}; run `verify --repair`"
    with pytest.raises(CorruptObject, match=message):
        steps.seal(0, 4, INPUTS, list(steps.done("shards", INPUTS).values()))


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_corruption_is_found_and_named_and_mended_by_the_same_work(steps: StepStore, damage: str) -> None:
    manifest = sealed(steps)
    entry = manifest.entries[1]
    data = steps.store.get(entry.key)
    flipped = data[:100] + bytes([data[100] ^ 1]) + data[101:]
    if damage == "delete":
        steps.store.delete(entry.key)
    else:
        steps.store.put(entry.key, flipped if damage == "flip" else data[: len(data) // 2])
    found = {
        "flip": f"{len(data)} bytes with sha256 {sha256_hex(flipped)}",
        "truncate": f"{len(data) // 2} bytes with sha256 ",
        "delete": "nothing",
    }[damage]
    expected = (
        f"expected {len(data)} bytes with sha256 {entry.sha256} at {entry.key} in {steps.store.url}, found"
    )
    message = f"{steps.name} shards/00001: {expected}"
    with pytest.raises(CorruptObject, match=re.escape(f"{message} {found}")):
        list(read_rows(steps, manifest, 0, 12))
    write(steps, 1)
    assert [part["index"][0] for part in read_rows(steps, manifest, 0, 12)] == [0, 4, 8]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"number":1', '"number":2', "expected number 2 in part 'shards/00001'"),
        ('"seconds":1.5', '"seconds":"long"', "seconds"),
        ('"inputs":{"score":"0', '"inputs":{"score":"2', "expected inputs_sha256"),
        ('"part":"shards/00001"', '"part":"epochs/00001"', "expected the receipt of that name, found one of"),
        ('"start":4', '"begin":4', "begin"),
        ("{", "", "expected JSON"),
    ],
)
def test_a_damaged_receipt_is_an_error_that_names_it(
    in_memory: StepStore, old: str, new: str, message: str
) -> None:
    write(in_memory, 1)
    key = in_memory.done("shards", INPUTS)[1]
    in_memory.store.put(key, in_memory.store.get(key).decode().replace(old, new, 1).encode())
    with pytest.raises(CorruptObject, match=key) as raised:
        in_memory.receipt(key)
    assert message in str(raised.value)


def test_the_digest_of_a_manifest_is_of_its_rows_and_not_of_times_or_formats(in_memory: StepStore) -> None:
    manifest = sealed(in_memory)
    other = step(in_memory.store, {"another": "step"})
    for number in range(3):
        write(other, number, format="npz")
    again = other.seal(0, 12, INPUTS, list(other.done("shards", INPUTS).values()))
    assert manifest.entries[0].sha256 != again.entries[0].sha256
    assert manifest.digest == again.digest
    listed = [[entry.start, entry.stop, entry.rows_sha256] for entry in manifest.entries]
    assert manifest.digest == fingerprint({"start": 0, "stop": 12, "rows": listed})
    assert (
        in_memory.seal(0, 11, INPUTS, list(in_memory.done("shards", INPUTS).values())).digest
        != manifest.digest
    )


def test_the_latest_attempt_of_each_part_is_kept(steps: StepStore) -> None:
    assert attempts(steps, "shards") == {}
    steps.note_attempt("shards", 42, {"attempt": 1})
    steps.note_attempt("shards", 42, {"attempt": 2, "host": "a"})
    steps.note_attempt("epochs", 3, {"attempt": 1})
    assert attempts(steps, "shards") == {42: {"attempt": 2, "host": "a"}}
    assert steps.committed("shards") == {}


def test_a_note_that_cannot_be_written_fails_nothing(
    in_memory: StepStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory.note_attempt("shards", 0, {"a value": object()})
    monkeypatch.setattr(in_memory, "store", None)
    in_memory.note_attempt("shards", 0, {"attempt": 1})


def test_a_fingerprint_that_is_not_one_is_refused(in_memory: StepStore) -> None:
    with pytest.raises(ValueError, match="expected a fingerprint of 64 hex digits, found 'abc'"):
        StepStore(in_memory.store, "generate", "abc")


def test_a_part_is_committed_for_the_inputs_that_it_was_made_from(store: ObjectStore) -> None:
    steps = step(store)
    assert not steps.is_committed("shards", 3, INPUTS)
    write(steps, 3)
    assert steps.is_committed("shards", 3, INPUTS)
    assert not steps.is_committed("shards", 3, OTHER_INPUTS) and not steps.is_committed("epochs", 3, INPUTS)
    assert steps.done("shards", INPUTS) == {3: steps.key("shards", 3, INPUTS)}


def test_a_record_without_its_fields_is_one_line():
    with pytest.raises(CorruptObject) as error:
        parse_record(Receipt, b"{}", "step/shards/00000.json", "memory://x")
    text = str(error.value)
    assert "\n" not in text and "pydantic" not in text
    assert text.startswith("step/shards/00000.json in memory://x: expected a receipt, found one that is not")
    assert "part: Field required; " in text and re.search(r" and \d+ more$", text)
