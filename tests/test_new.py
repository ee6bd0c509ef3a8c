"""`dgflow new FOLDER`: the files of the chapter on one's own model, which plan and run as they are."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from inprocess import execute_here

from dgflow.cli import tool
from dgflow.cli.guard import guarded
from dgflow.cli.new import FILES, TEMPLATES

CHAPTER = (Path(__file__).resolve().parents[1] / "docs" / "own-model.md").read_text()


def dgflow(*arguments: str) -> int:
    return guarded(lambda: tool.app(args=list(arguments), standalone_mode=False))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert dgflow("new", "mine") == 0
    return tmp_path / "mine"


def test_the_files_are_those_of_the_chapter(folder):
    chapter = dict(re.findall(r"```\w*\n# ([\w.]+)\n(.*?)```", CHAPTER, re.DOTALL))
    assert sorted(chapter) == [".rayignore", "my_model.py", "own_recipe.py"]
    for name, text in (chapter | {".gitignore": chapter[".rayignore"]}).items():
        assert (folder / name).read_text() == text
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert sorted({*FILES.values()}) == sorted(path.name for path in TEMPLATES.iterdir())


def test_ray_leaves_out_runs_and_weights_of_the_folder(folder):
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    (folder / "runs/x").mkdir(parents=True)
    for name in ("runs/x/big.parquet", "weights.pt", "images.npz"):
        (folder / name).write_bytes(b"x" * 2000)
    excluded = get_excludes_from_ignore_files(folder, include_gitignore=False)
    left = [path for path in folder.rglob("*") if path.is_file() and not any(rule(path) for rule in excluded)]
    assert {path.name for path in left} <= {*FILES}


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_overwritten_and_nothing_written_beside_it(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("my own work")
    assert dgflow("new", "mine") == 1
    assert f"found {name}; nothing was written" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [name]
    assert (tmp_path / "mine" / name).read_text() == "my own work"


@pytest.mark.parametrize("name", ["", "s3://bucket/x", "file"])
def test_what_is_no_folder_is_refused(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    assert dgflow("new", name) == 1
    assert "expected" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_recipe_plans_with_neither_weights_nor_data(folder):
    plan = subprocess.run(
        [sys.executable, "own_recipe.py", "plan"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert "denoiser.pt" in plan.stdout and "arm guided" in plan.stdout
    assert not (folder / "runs").exists()


def test_the_recipe_runs_at_toy_size(folder, monkeypatch, capsys):
    import importlib

    from dgflow.cli.recipe import application

    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    for name in ("own_recipe", "my_model"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr("dgflow.cli.recipe.execute", execute_here)
    recipe = importlib.import_module("own_recipe")
    app = application(recipe.workflow, "own_recipe")
    assert guarded(lambda: app(args=["run", "--smoke"], standalone_mode=False)) == 0
    assert "guided" in capsys.readouterr().out
    for name in ("own_recipe", "my_model"):
        sys.modules.pop(name, None)
