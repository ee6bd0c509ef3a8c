"""Trackio in its local database, read back by its own functions.

Trackio 0.43 needs pillow<13 and constraints.txt has a later one, so that a stand-in takes its calls here.
With STAND_IN empty the same test passes where Trackio itself is installed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dgflow
from dgflow.track.content import Picture, Sheet, Value, tracked

STAND_IN = str(Path(__file__).with_name("stand_in"))

READ = (
    "import json, trackio; storage = trackio.SQLiteStorage; print(json.dumps({record['name']:"
    " storage.get_logs('digits', record['name']) for record in storage.get_run_records('digits')}))"
)


@pytest.fixture
def python(tmp_path):
    """Run Python with Trackio's folder in a place of the test: the last line of standard output."""
    paths = os.pathsep.join(filter(None, [STAND_IN, *sys.path]))
    env = {**os.environ, "PYTHONPATH": paths, "TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}

    def call(*arguments: str):
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    return call


def test_values_are_those_of_the_root_and_a_repetition_adds_nothing(made, python):
    track = ("-m", "dgflow", "track", str(made), "--to", "trackio", "--json")
    assert len(python(*track)["runs"]) == len(list(tracked(dgflow.open(made))))
    found = python("-c", READ)
    for run in tracked(dgflow.open(made)):
        points = {
            (name, point["step"]): value
            for point in found[run.label]
            for name, value in point.items()
            if name not in ("step", "timestamp")
        }
        assert points.keys() == {item.key for item in run.items if isinstance(item, Value | Picture | Sheet)}
        for item in run.items:
            if isinstance(item, Value):
                assert points[item.key] == item.value
    assert python(*track)["runs"] == {}
    assert python("-c", READ) == found
