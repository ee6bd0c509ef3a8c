"""Weights & Biases offline: what lies in the files for `wandb sync`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb
from track.conftest import receipts
from wandb.proto import wandb_internal_pb2

import dgflow
from dgflow.track.content import Picture, Sheet, Value, tracked
from dgflow.track.to_wandb import Wandb

pytestmark = pytest.mark.slow  # wandb starts a service process

BLOCK = 2**15


def records(path: Path) -> list[Any]:
    """The records of a .wandb file: after 7 bytes LevelDB's log, in blocks of 32 KiB, of chunks with a
    header: checksum (4), length (2) and kind (1: whole, 2: first, 3: middle, 4: last)."""
    data, found, at, part = path.read_bytes(), [], 7, b""
    while at + 7 <= len(data):
        if (left := BLOCK - at % BLOCK) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        part = (b"" if kind in (1, 2) else part) + data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            protos: Any = wandb_internal_pb2
            found.append(protos.Record.FromString(part))
    return found


def logged(path: Path) -> dict[tuple[str, int], Any]:
    """The history of a run: name and step to value, of media one field. Each is there once."""
    found: dict[tuple[str, int], Any] = {}
    for record in records(path):
        if record.WhichOneof("record_type") != "history":
            continue
        row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for name, value in row.items():
            if not name.startswith("_"):
                assert (name, row["_step"]) not in found
                found[name, row["_step"]] = value
    return found


@pytest.fixture
def track(tmp_path):
    """Call `dgflow track ROOT --to wandb` offline, in a folder of its own: the runs that got something."""
    own = {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "HOME": str(tmp_path)}
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")} | own

    def call(root: Path) -> dict[str, dict[str, int]]:
        command = [sys.executable, "-m", "dgflow", "track", str(root), "--to", "wandb", "--json"]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])["runs"]

    return call


def files(folder: Path) -> dict[str, list[Path]]:
    """The .wandb files by the run's id, oldest first."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        found.setdefault(path.stem.removeprefix("run-"), []).append(path)
    return found


def test_each_file_has_the_run_from_its_beginning_and_a_repetition_leaves_none(root, track, tmp_path):
    step = next(iter(receipts(root, "train-score", "epochs")))
    hidden = {path: path.rename(tmp_path / path.name) for path in sorted(root.glob(f"{step}/epochs/*"))[10:]}
    assert track(root)[step] == {"configuration": 1, "value": 40}
    for path, aside in hidden.items():
        aside.rename(path)
    assert track(root) == {step: {"value": 56}}
    assert track(root) == {}
    found = files(tmp_path)
    runs = {run.id: run for run in tracked(dgflow.open(root))}
    assert found.keys() == runs.keys()
    for number, run in runs.items():
        assert len(found[number]) == (2 if run.name == step else 1)
        history = logged(found[number][-1])
        assert history.keys() == {item.key for item in run.items if isinstance(item, Value | Picture | Sheet)}
        for item in run.items:
            if isinstance(item, Value):
                assert history[item.key] == pytest.approx(item.value, rel=1e-12)
        (begun,) = [record.run for record in records(found[number][-1]) if record.HasField("run")]
        settings = {each.key: json.loads(each.value_json) for each in begun.config.update}
        assert settings.items() >= dict(run.configuration).items()
        assert (begun.project, begun.display_name) == ("digits", run.label)


def test_what_is_noted_holds_for_one_place(root, monkeypatch, tmp_path):
    """Notes of an offline run are not believed online, nor those of one project in another."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run = next(iter(tracked(dgflow.open(root))))
    tracker = Wandb()
    tracker.write(run, run.items)
    tracker.close()
    keys = {item.key for item in run.items}
    assert Wandb().known(run) == keys
    monkeypatch.setenv("WANDB_PROJECT", "other")
    assert Wandb().known(run) == set()
    monkeypatch.delenv("WANDB_PROJECT")
    wandb.teardown()  # it read its variables once
    monkeypatch.setenv("WANDB_MODE", "online")
    online = Wandb()
    assert (online.known(run), online.where) == (set(), "Weights & Biases")
