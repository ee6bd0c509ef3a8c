"""The root of a toy run of `digits`, finished, in `runs/digits` of a folder: made once."""

import sys
from pathlib import Path

import pytest
from client import digits
from inprocess import complete
from once import once

from dgflow.cli import main, recipe
from dgflow.client.open_root import OpenRoot
from dgflow.client.open_root import open as open_root
from dgflow.specs.graph import graph


def execute_here(target, store, placement, progress) -> None:
    """`complete` in the place of `dgflow.engine.execute.execute`, which leaves the record of a run."""
    with progress.run(nodes := graph(target), store):
        with progress.step(nodes[0].step, total=1, done=0) as advance:
            advance(1)
        complete(target, store)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "toy-digits", _run)


def _run(folder: Path) -> None:
    digits.write_images(folder / "images.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "execute", execute_here)
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["digits.py", "run", "--root", "runs/digits"])
        with pytest.raises(SystemExit) as ended:
            main(digits.workflow)
        assert not ended.value.code, ended.value.code


@pytest.fixture
def run(folder: Path) -> OpenRoot:
    return open_root(folder / "runs/digits")
