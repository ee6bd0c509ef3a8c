"""`dgflow new FOLDER`: the files of the chapter on one's own model, which plan and run as they are."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from inprocess import execute_here

from dgflow.cli import tool
from dgflow.cli.guard import guarded
from dgflow.cli.new import FILES, TEMPLATES
from dgflow.cli.recipe import application

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
    assert sorted(chapter) == [".rayignore", "my_model.py", "own_recipe.py", "test_own_recipe.py"]
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


@pytest.mark.slow
def test_the_test_passes_as_it_is(folder):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    passed = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert passed.returncode == 0 and "4 passed" in passed.stdout, passed.stdout


@pytest.fixture
def its_tests(folder, monkeypatch):
    """The tests of networks in the folder, by name, with `my_model.py` as it is by then."""
    monkeypatch.syspath_prepend(folder)
    names = ("test_own_recipe", "own_recipe", "my_model")

    def load():
        for name in names:
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        found = vars(importlib.import_module("test_own_recipe"))
        return {name: found[name] for name in found if name.startswith("test_") and "plans" not in name}

    yield load
    for name in names:
        sys.modules.pop(name, None)


def test_its_tests_pass_and_tell_a_network_that_predicts_the_noise(folder, its_tests, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # the file changes within a second
    assert len(its_tests()) == 3
    for test in its_tests().values():
        test()
    denoiser = (folder / "my_model.py").read_text()
    noise = denoiser.replace("return c_skip * x + ", "return x / s - ")
    assert noise != denoiser
    (folder / "my_model.py").write_text(noise)
    with pytest.raises(AssertionError, match="not close"):
        its_tests()["test_where_there_is_no_noise_nothing_is_removed"]()


def test_the_recipe_runs_at_toy_size(folder, monkeypatch, capsys):
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
