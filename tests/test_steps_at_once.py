"""Steps that read nothing of each other are at work at once, on the same workers."""

import json
import sys

import pytest
from inprocess import complete
from two_steps import Both, Written

from dgflow.engine.execute import StepFailed, execute
from dgflow.runtime.placement import Placement
from dgflow.runtime.progress import Progress
from dgflow.specs.graph import graph
from dgflow.store.memory import MemoryStore
from dgflow.store.open import open_store
from dgflow.store.runs import alive


@pytest.fixture
def no_ray(monkeypatch):
    """Workers are processes of this machine."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def receipts(part, store) -> dict[int, str]:
    """The digest of each committed shard of a slice's step, by number."""
    found = [
        json.loads(store.get(entry.key))
        for entry in store.list(f"{part.step.name}/shards")
        if ".json" in entry.key
    ]
    return {receipt["number"]: receipt["rows_sha256"] for receipt in found}


def both(broken: int = -1) -> Both:
    first, second = Written(seed=1, broken=broken), Written(seed=2)
    return Both(first=first[:12], second=second[:12])


def test_two_steps_are_made_together_with_the_bits_of_one_after_the_other(no_ray, tmp_path, capsys):
    target, store, here = both(), open_store(str(tmp_path / "root")), open_store(str(tmp_path / "here"))
    execute(target, store, Placement(1), Progress())
    complete(target, here)
    for part in (target.first, target.second):
        assert receipts(part, store) == receipts(part, here) and len(receipts(part, here)) == 6
    lines = capsys.readouterr().err.splitlines()
    begun = [line for line in lines if line.endswith("working")]
    ended = [line for line in lines if ": done, " in line]
    assert [line.split(",")[0] for line in begun] == ["step 1 of 3", "step 2 of 3", "step 3 of 3"]
    # The second begins before the first has ended.
    assert lines.index(begun[1]) < lines.index(ended[0]) and len(ended) == 3


def test_a_step_that_fails_is_told_once_and_what_is_at_work_for_another_is_kept(
    no_ray, tmp_path, monkeypatch
):
    monkeypatch.setenv("BEGUN", str(tmp_path / "begun"))
    target, store = both(broken=1), open_store(str(tmp_path / "root"))
    with pytest.raises(
        StepFailed, match=r"1 of 6 shards could not be made.*Shard 1 after 1 attempt: this one"
    ) as told:
        execute(target, store, Placement(1), Progress())
    assert str(told.value).count("this one is broken") == 1
    begun = [tuple(map(int, line.split())) for line in (tmp_path / "begun").read_text().splitlines()]
    assert sorted(receipts(target.first, store)) == [0, 2, 3, 4, 5]
    assert sorted(receipts(target.second, store)) == sorted(number for seed, number in begun if seed == 2)


def test_the_sign_of_life_names_all_steps_that_are_at_work_the_first_with_its_numbers():
    store, progress, nodes = MemoryStore("at-once"), Progress(), graph(both())
    with progress.run(nodes, store), progress.step(nodes[0].step, total=6, done=1) as advance:
        with progress.step(nodes[1].step, total=6, done=0):
            advance(2)
            beat = progress._beat()
            assert (beat.number, beat.done, beat.wanted) == (1, 3, 6)
            assert beat.does == f"concurrently {nodes[1].step.title}, 0 of 6 shards"
        assert progress._beat().does == ""
        assert len(alive(store)) == 1
