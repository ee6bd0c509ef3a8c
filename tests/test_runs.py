"""`dgflow ls` and `dgflow status` of a root, and a recipe's commands there, as a user types them."""

import json
import re
import sys

import pytest
import tiny
from inprocess import complete
from tool_command import dgflow, made

from dgflow.cli import recipe
from dgflow.cli.recipe import main
from dgflow.store.open import open_store
from dgflow.store.runs import records

__all__ = ["dgflow", "made"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run of the toy recipe, of four samples in one shard, made in this process."""
    folder = tmp_path_factory.mktemp("runs")
    tiny.write_images(folder / "images.npz")

    def execute_here(target, store, placement, progress) -> None:
        from dgflow.specs.graph import graph

        with progress.run(nodes := graph(target), store):
            with progress.step(nodes[0].step, total=1, done=0) as advance:
                advance(1)
            complete(target, store)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "execute", execute_here)
        patch.chdir(folder)
        assert call(patch, "run", "--root", "root", "--samples", "32") == 0
    return folder


def call(patch: pytest.MonkeyPatch, *arguments: str) -> int:
    patch.setattr(sys, "argv", ["tiny.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        main(tiny.workflow)
    return int(ended.value.code or 0)


def test_the_record_of_a_run_has_recipe_docstring_options_command_and_version(folder):
    (record,) = records(open_store(str(folder / "root")))
    asked = record.asked
    assert (asked.recipe, asked.file, asked.headline[:33]) == (
        "tiny",
        "tiny.py",
        "A recipe small enough to run agai",
    )
    assert asked.options == {"source": "images.npz", "samples": 32, "epochs": 2, "guidance_weight": 1.0}
    assert asked.changed == () and asked.command == ("tiny.py", "run", "--root", "root", "--samples", "32")
    assert record.outcome == "done" and re.fullmatch(r"\d+\.\d+\.\d+.*", record.version)
    assert asked.commit is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", asked.commit)


def test_ls_and_status_of_a_root_need_no_recipe(folder, dgflow):
    listed = dgflow("ls", folder / "root", "--json")
    assert listed.status == 0 and listed.stdout.startswith("tiny: 17 of 17 steps done\n")
    (run,) = json.loads(listed.stdout.splitlines()[-1])["runs"]
    assert (run["state"], run["steps"], run["steps_done"]) == ("done", 17, 17)
    shown = dgflow("status", folder / "root", "--json")
    assert shown.status == 0 and "generate seed 5, guided by discriminator" in shown.stdout
    (run,) = json.loads(shown.stdout.splitlines()[-1])["runs"]
    assert run["total"]["state"] == "done" and {row["state"] for row in run["rows"]} == {"done"}


def test_ls_of_what_is_no_root_says_so_and_writes_nothing(tmp_path, dgflow):
    for command in ("ls", "status"):
        found = dgflow(command, tmp_path / "nowhere")
        assert found.status == 1 and "nothing at this root" in found.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["plan", "status", "report", "verify"])
def test_a_recipe_with_other_options_says_what_the_root_holds(folder, monkeypatch, capsys, command):
    monkeypatch.chdir(folder)
    call(monkeypatch, command, "--root", "root", "--samples", "16", "--guidance-weight", "3")
    captured = capsys.readouterr()
    line = "this root also holds tiny (run with --samples 32 --guidance-weight 1.0), done"
    assert line in (captured.out if command == "status" else captured.err).splitlines()
    call(monkeypatch, command, "--root", "root")
    captured = capsys.readouterr()
    assert "also holds" not in captured.out + captured.err


def test_status_of_a_recipe_says_how_its_last_run_ended(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert call(monkeypatch, "status", "--root", "root", "--json") == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"last run: started \d{4}-\d\d-\d\d \d\d:\d\d on \S+, done", lines[0])
    found = json.loads(last)
    assert found["run"]["state"] == "done" and found["others"] == []
    assert found["total"]["state"] == "done" and found["total"]["seconds_left"] is None


def test_verify_says_at_which_step_it_is(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert call(monkeypatch, "verify", "--root", "root") == 0
    assert "step 17 of 17, evaluate: 1 of 1 results" in capsys.readouterr().err.splitlines()
