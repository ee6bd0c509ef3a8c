"""`dgflow rm`: a step goes with what was made from it, and one that is stopped anywhere leaves no lie."""

import json
import sys
from pathlib import Path
from uuid import uuid4

import pytest
import tiny
from inprocess import complete
from store.faults import Crash, FaultyStore

from dgflow.cli import tool
from dgflow.engine.removal import doomed, remove
from dgflow.engine.verify import verify
from dgflow.specs.bound import Bound
from dgflow.specs.graph import graph
from dgflow.specs.step import ResultStep, Slice, Spread
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.store.runs import Beat, RunRecord, RunStep, beat_key, record_key

MARK = b'{"dgflow_root": 1}'


class First(ResultStep):
    """Reads samples."""

    samples: Slice

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        del spread, store
        return repr([int(piece["image"].sum()) for piece in inputs.pieces("samples", ["image"])]).encode()


class Second(ResultStep):
    """Names samples in its description, and reads a result that was made from them, as `Evaluate` does."""

    samples: Slice

    def inputs(self):
        return {"first": First(samples=self.samples).result()}

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        del spread, store
        return inputs.result("first") + b"!"


@pytest.fixture
def target(tmp_path: Path) -> Second:
    return Second(samples=tiny.real(tiny.write_images(tmp_path / "images.npz"))[:64])


@pytest.fixture
def made(target: Second) -> MemoryStore:
    store = MemoryStore(uuid4().hex)
    store.put("dgflow.json", MARK)
    complete(target, store)
    return store


def names(target: Second) -> dict[str, str]:
    return {node.step.kind: node.step.name for node in graph(target)}


def kinds(store: ObjectStore, name: str) -> list[str]:
    return [each.step.rpartition("-")[0] for each in doomed(store, name)]


def test_what_was_made_from_a_step_goes_before_it(target: Second, made: MemoryStore) -> None:
    of = names(target)
    assert kinds(made, of["list-images"]) == ["second", "first", "import-images", "list-images"]
    assert kinds(made, of["import-images"]) == ["second", "first", "import-images"]
    assert kinds(made, of["first"]) == ["second", "first"]  # by the digest in its receipt alone
    assert kinds(made, of["second"]) == ["second"]


def test_steps_that_others_made_stay(target: Second, made: MemoryStore, tmp_path: Path) -> None:
    other = First(samples=tiny.real(tiny.write_images(tmp_path / "others.npz", count=40))[:32])
    complete(other, made)
    before = {entry.key: made.get(entry.key) for entry in made.list("")}
    remove(made, steps := doomed(made, names(target)["list-images"]))
    gone = tuple(f"{each.step}/" for each in steps)
    assert {entry.key: made.get(entry.key) for entry in made.list("")} == {
        key: data for key, data in before.items() if not key.startswith(gone)
    }
    assert not verify(other, made, lambda _: None).missing


def test_a_removal_that_is_stopped_anywhere_leaves_less_and_nothing_false(
    target: Second, made: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgflow.engine.removal._AT_ONCE", 1)
    whole = {entry.key: made.get(entry.key) for entry in made.list("")}
    steps = doomed(made, names(target)["import-images"])
    objects = sum(len(each.entries) for each in steps)
    for at in range(objects):
        store = MemoryStore(uuid4().hex)
        for key, data in whole.items():
            store.put(key, data)
        with pytest.raises(Crash):
            remove(FaultyStore(store, at), steps)
        assert len(store.list("")) == len(whole) - at
        found = verify(target, store, lambda _: None)
        assert found.damaged == [] and bool(found.missing) == (at > 0)
        if at in (0, 5, objects - 1):
            complete(target, store)
            assert {key: store.get(key) for key in whole if "/data/" in key} == {
                key: data for key, data in whole.items() if "/data/" in key
            }
    remove(made, steps)
    assert made.names() == ["dgflow.json", names(target)["list-images"]]


def test_a_step_without_a_description_goes_with_what_names_it(target: Second, made: MemoryStore) -> None:
    of = names(target)
    made.delete(f"{of['import-images']}/step.json")
    made.put(f"{of['second']}/step.json", b"{")
    assert kinds(made, of["import-images"]) == ["second", "first", "import-images"]


@pytest.fixture
def rm(monkeypatch, capsys, tmp_path, target):
    """The command, in a folder with the root `root`."""
    monkeypatch.chdir(tmp_path)
    store = open_store("root")
    store.put("dgflow.json", MARK)
    complete(target, store)

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dgflow", "rm", *arguments])
        with pytest.raises(SystemExit) as ended:
            tool.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return command


def test_the_command_shows_what_would_go_and_removes_it_when_told(rm, target, tmp_path) -> None:
    before = sorted(tmp_path.rglob("*"))
    status, out, _ = rm("root/import", "--json")
    of = names(target)
    assert status == 0 and sorted(tmp_path.rglob("*")) == before
    assert out.splitlines()[0] == f"would remove from {(tmp_path / 'root').as_uri()}, in this order:"
    assert out.splitlines()[3].startswith(f"  {of['import-images']}: 8 objects, ")
    assert "nothing was removed; add --yes to remove it" in out
    told = json.loads(out.splitlines()[-1])
    assert [each["step"] for each in told["steps"]] == [of["second"], of["first"], of["import-images"]]
    assert rm("root/import", "--yes")[0] == 0
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == [
        ".tmp",
        "dgflow.json",
        of["list-images"],
    ]


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("root", "found the root root itself; add the name of one of its steps: first-"),
        ("root/import[0:32]", "without a range"),
        ("root/nothing", "whose name begins with 'nothing', found the steps"),
        ("rot/import", "nothing at this root"),
        ("s3:/bucket/import", "did you mean s3://bucket/import?"),
    ],
)
def test_what_is_no_step_of_a_root_is_refused(rm, address, named) -> None:
    status, out, error = rm(address, "--yes")
    assert (status, out) == (1, "") and named in error


def test_a_step_that_a_run_at_work_needs_is_not_removed(rm, target, tmp_path) -> None:
    store, of = open_store("root"), names(target)

    def runs(*steps: str) -> None:
        described = tuple(
            RunStep(name=name, title=name, kind="x", folder="shards", unit="shards", wanted=())
            for name in steps
        )
        record = RunRecord(id="1", target="x", steps=described, version="1", host="h", pid=7, started=0.0)
        store.put(record_key("1"), record.model_dump_json().encode())
        store.put(beat_key("1"), Beat().model_dump_json().encode())

    runs(of["first"])
    status, out, error = rm("root/import", "--yes")
    assert (status, out) == (1, "") and "a run on h, pid 7; stop it first" in error
    status, out, _ = rm("root/import")
    assert status == 0 and "an active run needs it; stop the run first: a run on h, pid 7" in out
    runs("generate-0123456789ab")
    assert rm("root/import", "--yes")[0] == 0
