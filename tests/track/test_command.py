"""`dgflow track` as a user types it."""

import json
import sys

import pytest

from dgflow import extras
from dgflow.cli import tool
from dgflow.track.to_tensorboard import TensorBoard


@pytest.fixture
def track(monkeypatch, capsys, tmp_path):
    """Call `dgflow track` in a folder of its own: exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["dgflow", "track", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            tool.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


def test_a_line_for_each_run_and_how_to_look_at_it(track, made, tmp_path):
    status, out, err = track(made, "--to", "tensorboard", "--json")
    *lines, look, data = out.splitlines()
    assert status == 0 and err == ""
    assert any(
        line.startswith("train-score-") and line.endswith("1 configuration, 96 values") for line in lines
    )
    assert look == "to view it: tensorboard --logdir runs/tensorboard"
    found = json.loads(data)
    assert found["look"] == "tensorboard --logdir runs/tensorboard"
    (score,) = [counts for name, counts in found["runs"].items() if name.startswith("train-score-")]
    assert score == {"configuration": 1, "value": 96}
    assert len(list((tmp_path / "runs" / "tensorboard" / "digits").rglob("events.*"))) == len(found["runs"])


def test_a_repetition_says_that_nothing_is_new(track, made):
    track(made, "--to", "tensorboard")
    status, out, _ = track(made, "--to", "tensorboard", "--json")
    assert status == 0 and out.splitlines()[0] == f"nothing new: runs/tensorboard has all of {made}"
    assert json.loads(out.splitlines()[-1])["runs"] == {}


def test_following_a_run_that_has_ended_ends(track, made):
    status, out, err = track(made, "--to", "tensorboard", "--follow")
    assert status == 0 and "to view it" in out
    assert err == "no run is active: the last one, of digits, ended: done\n"


def test_ctrl_c_ends_with_what_was_written_in_its_place(track, made, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dgflow.cli.track.time.sleep", interrupt)
    status, _, err = track("runs/none-yet", "--to", "tensorboard", "--follow")
    assert status == 130
    assert err.splitlines()[0] == "waiting for a run in runs/none-yet"


def test_a_tracker_that_fails_is_one_message(track, made, monkeypatch):
    class Failing(TensorBoard):
        errors = (ConnectionResetError,)

        def write(self, run, items):
            raise ConnectionResetError("gone")

        def close(self):
            raise ConnectionResetError("still gone")

    monkeypatch.setattr("dgflow.cli.tool.opened", lambda *_, **__: Failing("logs"))
    status, out, err = track(made, "--to", "tensorboard")
    assert (status, out) == (1, "")
    assert err == "error: could not finish the runs in logs: still gone; the same command finishes them\n"


def test_mistakes_are_one_message(track, made, monkeypatch):
    status, out, err = track("runs/digit", "--to", "tensorboard")
    assert (status, out) == (1, "") and "expected a dgflow root" in err
    status, out, err = track(made, "--to", "tensorboard", "--tracking-uri", "x")
    assert (status, out) == (1, "") and "expected --tracking-uri with --to mlflow only" in err
    status, out, err = track(made, "--to", "aim")
    assert (status, out) == (2, "") and "tensorboard" in err
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda package: None)
    status, out, err = track(made, "--to", "wandb")
    assert (status, out) == (1, "")
    assert err == "error: --to wandb needs the package wandb: pip install 'dgflow[wandb]'\n"
