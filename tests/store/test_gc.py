"""`gc`: what goes, what stays, and a writer at work meanwhile."""

import contextlib
import json
import os
import uuid
from pathlib import Path

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from inprocess import complete
from store.aging import DAY, AgingStore, Stepped, interleave
from store.faults import Crash, FaultyStore
from store.step_examples import DOCUMENT, INPUTS, OTHER_INPUTS, ROWS, step, write
from typer.testing import CliRunner

from dgflow.cli import tool
from dgflow.cli.recipe import application
from dgflow.cli.root import open_root
from dgflow.engine import gc
from dgflow.engine.gc import collect
from dgflow.engine.root import Root
from dgflow.store.identity import sha256_hex
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.store.step_store import StepStore


@pytest.fixture
def aging() -> AgingStore:
    return fresh()


def fresh() -> AgingStore:
    store = AgingStore(open_store(f"memory://{uuid.uuid4().hex}"))
    step(store).declare(DOCUMENT)
    return store


def orphan(store: ObjectStore, number: int = 0, salt: int = 0) -> str:
    """Leave the data of a writer that dies between put and receipt; return the data's key."""
    before = {entry.key for entry in store.list("")}
    with contextlib.suppress(Crash):
        write(step(FaultyStore(store, 1)), number, salt=salt)
    (key,) = {entry.key for entry in store.list("")} - before
    return key


def keys(store: ObjectStore) -> list[str]:
    return [entry.key for entry in store.list("")]


def gone(store: ObjectStore, **options: bool) -> list[str]:
    before = keys(store)
    collect(store, delete=options.get("delete", True), tell=lambda _: None)
    return sorted(set(before) - set(keys(store)))


def test_an_orphan_older_than_a_week_goes_and_what_is_committed_stays(aging: AgingStore) -> None:
    old = orphan(aging)
    write(step(aging), 0, salt=1)
    write(step(aging), 1)
    aging.clock += 7 * DAY + 1
    assert gone(aging) == [old]


def test_an_orphan_of_a_week_stays(aging: AgingStore) -> None:
    orphan(aging)
    aging.clock += 7 * DAY
    assert gone(aging) == []


def test_data_of_other_bytes_that_lost_the_race_for_the_receipt_goes(aging: AgingStore) -> None:
    winner = write(step(aging), 0)
    assert write(step(aging), 0, salt=1) == winner
    aging.clock += 8 * DAY
    (lost,) = gone(aging)
    assert lost != winner.key and step(aging).read_shard(winner)["index"].size == ROWS


def test_what_was_made_from_earlier_inputs_is_committed_and_stays(aging: AgingStore) -> None:
    write(step(aging), 0, inputs=OTHER_INPUTS)
    write(step(aging), 0, salt=1)
    aging.clock += 100 * DAY
    assert gone(aging) == []


def test_what_only_a_manifest_names_stays(aging: AgingStore) -> None:
    """The state after an interrupted repair: the receipt is removed, and the shard is not rebuilt."""
    steps = step(aging)
    write(steps, 0)
    steps.seal(0, ROWS, INPUTS, [steps.key("shards", 0, INPUTS)])
    aging.delete(steps.key("shards", 0, INPUTS))
    aging.clock += 8 * DAY
    assert gone(aging) == []


def test_notes_of_finished_parts_go_and_those_of_unfinished_ones_stay(aging: AgingStore) -> None:
    steps = step(aging)
    for number in range(3):
        steps.note_attempt("shards", number, {"host": "a"})
    write(steps, 0)
    write(steps, 1)
    aging.clock += 1
    steps.note_attempt("shards", 1, {"host": "b"})  # after the commit: perhaps of a rebuild from other inputs
    aging.clock += 8 * DAY
    assert gone(aging) == [f"{steps.name}/attempts/shards-00000.json"]


def test_parts_of_different_folders_are_told_apart(aging: AgingStore) -> None:
    options = {"rows_sha256": "0" * 64, "inputs": INPUTS, "seconds": 1.0, "device": "cpu", "versions": {}}
    steps = step(aging)
    for folder in ("epochs", "checkpoints"):
        with contextlib.suppress(Crash):
            step(FaultyStore(aging, 1)).commit(folder, 3, folder.encode(), suffix="safetensors", **options)
    steps.commit("epochs", 3, b"whole", suffix="safetensors", **options)
    aging.clock += 8 * DAY
    orphans = [
        f"{folder}-00003-{sha256_hex(folder.encode())[:16]}.safetensors"
        for folder in ("checkpoints", "epochs")
    ]
    assert gone(aging) == [f"{steps.name}/data/{name}" for name in orphans]


def test_a_dry_run_removes_nothing_and_tells_the_same(aging: AgingStore) -> None:
    orphan(aging)
    orphan(aging, 1)
    aging.clock += 8 * DAY
    lines: list[str] = []
    before = keys(aging)
    dry = collect(aging, delete=False, tell=lines.append)
    assert keys(aging) == before
    assert (dry.number, dry.bytes) == (
        2,
        sum(entry.bytes for entry in aging.list(f"{step(aging).name}/data")),
    )
    assert lines == [f"{step(aging).name}: 2 data objects and 0 notes, {dry.bytes / 1e6:.1f} MB"]
    assert collect(aging, delete=True, tell=lines.append).steps == dry.steps
    assert collect(aging, delete=True, tell=lines.append).number == 0


@pytest.mark.parametrize(
    ("description", "why"),
    [(None, "no step.json"), (b"{", "expected JSON"), (b'{"fingerprint": "0"}', "of another step")],
)
def test_a_folder_that_does_not_say_what_it_is_is_not_touched(
    aging: AgingStore, description: bytes | None, why: str
) -> None:
    orphan(aging)
    if description is None:
        aging.delete(f"{step(aging).name}/step.json")
    else:
        aging.put(f"{step(aging).name}/step.json", description)
    aging.clock += 8 * DAY
    found = collect(aging, delete=True, tell=lambda _: None)
    assert found.number == 0 and len(aging.list(f"{step(aging).name}/data")) == 1
    (line,) = found.left
    assert line.startswith(f"{step(aging).name}: ") and why in line


@pytest.mark.parametrize("record", ["shards", "manifests"])
def test_a_step_with_a_record_that_cannot_be_read_is_not_touched(aging: AgingStore, record: str) -> None:
    steps = step(aging)
    orphan(aging)
    write(steps, 0, salt=1)
    steps.seal(0, ROWS, INPUTS, [steps.key("shards", 0, INPUTS)])
    write(steps, 0, inputs=OTHER_INPUTS, salt=2)
    aging.put(aging.list(f"{steps.name}/{record}")[0].key, b"{")
    aging.clock += 8 * DAY
    found = collect(aging, delete=True, tell=lambda _: None)
    assert found.number == 0 and len(found.left) == 1


def test_nothing_outside_the_folders_of_steps_is_touched(aging: AgingStore) -> None:
    others = [
        "dgflow.json",
        "report.html",
        "weights/x.safetensors",
        "data/00000-0123456789abcdef.parquet",
        "notes-1/data/00000-0.parquet",
    ]
    for key in others:
        aging.put(key, b"x")
    aging.put(f"{step(aging).name}/data/by-hand.parquet", b"x")
    aging.clock += 100 * DAY
    assert gone(aging) == []


def test_a_whole_root_of_a_run_is_left_as_it_is(tmp_path: Path) -> None:
    inner = open_store(f"memory://{uuid.uuid4().hex}")
    aging = AgingStore(inner)
    complete(tiny.discriminator(tiny.write_images(tmp_path / "images.npz")), aging)
    aging.clock += 100 * DAY
    left = gone(aging)
    assert all("/attempts/" in key for key in left)
    steps = Root(aging).step_store(tiny.discriminator(tmp_path / "images.npz"))
    assert len(steps.committed("epochs")) == 2


def test_a_step_is_listed_once_and_only_receipts_of_parts_in_question_are_read(aging: AgingStore) -> None:
    for number in range(50):
        write(step(aging), number)
    orphan(aging, 7, salt=1)
    aging.clock += 8 * DAY
    aging.operations = 0
    collect(aging, delete=False, tell=lambda _: None)
    assert aging.operations == 5  # the root's names, step.json, the listing, one receipt, no manifest
    aging.operations = 0
    collect(aging, delete=True, tell=lambda _: None)
    assert aging.operations == 9  # and the orphan's bytes, its removal, another listing, no new receipt


def commits(store: ObjectStore, salt: int = 0) -> StepStore:
    write(step(store), 0, salt=salt)
    return step(store)


def check_whole(store: ObjectStore) -> None:
    """Assert that committed data exists."""
    steps = step(store)
    (key,) = steps.done("shards", INPUTS).values()
    assert steps.read_shard(steps.receipt(key))["index"].size == ROWS


@pytest.mark.parametrize("kept", [gc.KEPT, 0])
def test_a_writer_that_commits_an_orphan_between_the_listing_and_the_delete_loses_nothing(
    aging: AgingStore, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """Also where bytes are too large to be kept: `kept` 0."""
    monkeypatch.setattr(gc, "KEPT", kept)
    key = orphan(aging)
    aging.clock += 8 * DAY
    delete, listing = aging.delete, aging.list

    def commit_before(removed: str) -> None:
        if removed == key:
            commits(aging)
        delete(removed)

    def commit_behind(prefix: str):
        found = listing(prefix)
        monkeypatch.setattr(aging, "list", listing)
        commits(aging)
        return found

    if kept:
        monkeypatch.setattr(aging, "delete", commit_before)
        assert collect(aging, delete=True, tell=lambda _: None).restored == [key]
    else:
        monkeypatch.setattr(aging, "list", commit_behind)
        collect(aging, delete=True, tell=lambda _: None)
    check_whole(aging)


def test_what_stops_gc_between_a_delete_and_the_look_after_it_puts_everything_back(
    aging: AgingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = orphan(aging)
    data = aging.get(key)
    aging.clock += 8 * DAY
    listing, calls = aging.list, []

    def interrupted(prefix: str):
        calls.append(prefix)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return listing(prefix)

    monkeypatch.setattr(aging, "list", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(aging, delete=True, tell=lambda _: None)
    assert aging.get(key) == data


@settings(max_examples=300, deadline=None)
@given(turns=st.lists(st.booleans(), max_size=30), dies_at=st.none() | st.integers(0, 1), same=st.booleans())
def test_no_order_of_the_operations_of_a_commit_and_a_gc_loses_what_is_committed(
    turns: list[bool], dies_at: int | None, same: bool
) -> None:
    """The writer makes the bytes of an old orphan, or others; the first attempt may have died at once
    before."""
    store = fresh()
    orphan(store)
    if not same:
        orphan(store, salt=1)
    store.clock += 8 * DAY
    if dies_at is not None:
        with contextlib.suppress(Crash):
            write(step(FaultyStore(store, dies_at)), 0)
    writer = Stepped(store, lambda own: commits(own, salt=0 if same else 2))
    collector = Stepped(store, lambda own: collect(own, delete=True, tell=lambda _: None))
    interleave(writer, collector, turns)
    check_whole(store)


@pytest.fixture(params=["dgflow gc ROOT", "RECIPE gc --root ROOT"])
def command(request: pytest.FixtureRequest, tmp_path: Path):
    """The command on the root `tmp_path / "root"`, in either spelling."""
    source = tiny.write_images(tmp_path / "images.npz")

    def workflow(seed: int = 0):
        return tiny.real(source).model_copy(update={"seed": seed})[:32]

    workflow.__module__ = __name__
    root = str(tmp_path / "root")
    if request.param.startswith("dgflow"):
        return lambda *more: CliRunner().invoke(tool.app, ["gc", root, *more], standalone_mode=False)
    return lambda *more: CliRunner().invoke(application(workflow, "tiny"), ["gc", "--root", root, *more])


def test_gc_on_the_command_line_tells_what_would_go_and_removes_it_when_told(command, tmp_path: Path) -> None:
    root = tmp_path / "root"
    store = open_root(str(root))
    assert "would remove 0 objects" in command().output
    step(store).declare(DOCUMENT)
    key = orphan(store)
    os.utime(root / key, (0, 0))
    dry = command("--json")
    assert dry.exit_code == 0, dry.output
    size = (root / key).stat().st_size
    assert dry.output.splitlines()[:-1] == [
        f"{step(store).name}: 1 data objects and 0 notes, 0.0 MB",
        "would remove 1 object (0.0 MB)",
        "nothing was removed; add --yes to remove it",
    ]
    assert json.loads(dry.output.splitlines()[-1]) == {
        "deleted": False,
        "objects": 1,
        "bytes": size,
        "steps": [{"step": step(store).name, "data": 1, "notes": 0, "bytes": size}],
        "not_touched": [],
    }
    assert (root / key).exists()
    assert "removed 1 object (" in command("--yes").output
    assert not (root / key).exists()


def test_gc_makes_no_root_where_there_is_none(tmp_path: Path) -> None:
    result = CliRunner().invoke(tool.app, ["gc", str(tmp_path)])
    assert isinstance(result.exception, ValueError) and "found no dgflow.json" in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_orphans_go_from_every_backend(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    step(store).declare(DOCUMENT)
    keys_of_orphans = sorted([orphan(store), orphan(store, 1)])
    whole = write(step(store), 0, salt=1)
    assert gone(store) == []
    monkeypatch.setattr(gc, "AGE", -2.0)  # everything is old
    assert gone(store) == keys_of_orphans
    assert step(store).read_shard(whole)["index"].size == ROWS
