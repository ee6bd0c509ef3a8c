"""Shipped systems from the command line at toy size, to a table of finite numbers, without Ray and in this
process; `test_smoke_runs.py` runs them as a user does."""

import runpy
import shutil
import sys
from pathlib import Path

import pytest
from e2e.smoke_runs import LONG, OPTIONS, RUNS, THROUGH_RAY, check_run
from inprocess import execute_here
from steps.shipped import WORKFLOWS


@pytest.mark.parametrize("recipe", [name for name in RUNS if name not in (*THROUGH_RAY, *LONG)])
def test_a_recipe_runs_the_whole_way_at_toy_size_without_ray(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dgflow.cli.recipe.execute", execute_here)
    monkeypatch.delenv("DGFLOW_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(WORKFLOWS))  # as of a script that is run
    root = tmp_path / "runs" / f"{recipe}-smoke"
    try:
        for options in OPTIONS[recipe]:
            monkeypatch.setattr(sys, "argv", [recipe, "run", "--smoke", *options, "--json"])
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(str(WORKFLOWS / f"{recipe}.py"), run_name="__main__")
            run = capsys.readouterr()
            assert not ended.value.code, run.err[-3000:]
            check_run(recipe, run.out, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)  # 200 to 350 MB
