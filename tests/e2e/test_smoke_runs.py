"""Shipped systems from the command line at toy size: `python workflows/X.py run --smoke`, with Ray, to a
table of finite numbers.

All other systems run in one process (`test_smoke_runs_here.py`): the same steps, at less than half of the
time.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from e2e.smoke_runs import OPTIONS, THROUGH_RAY, check_run
from recipe_command import here
from steps.shipped import WORKFLOWS

__all__ = ["here"]

ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DGFLOW_", "RAY_"))
}


def command(recipe: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(WORKFLOWS / f"{recipe}.py"), *arguments],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=1500,
    )


@pytest.mark.slow
@pytest.mark.parametrize("recipe", THROUGH_RAY)
def test_a_recipe_runs_the_whole_way_at_toy_size(
    recipe: str, tmp_path: Path, own_ray: None, here: Any
) -> None:
    root = tmp_path / "runs" / f"{recipe}-smoke"
    try:
        for options in OPTIONS[recipe]:
            run = command(recipe, "run", "--smoke", *options, "--json", cwd=tmp_path)
            assert run.returncode == 0, run.stderr[-3000:]
            check_run(recipe, run.stdout, root, options)
        if recipe == "cifar10_lsgm":
            again = command(recipe, "run", "--smoke", cwd=tmp_path)
            assert again.returncode == 0 and "done" not in again.stderr, again.stderr
            file = WORKFLOWS / f"{recipe}.py"
            for other in ("status", "verify", "report"):
                assert here(other, "--smoke", recipe=file, cwd=tmp_path).returncode == 0
            real = here("plan", "--root", root, recipe=file, cwd=tmp_path)
            assert real.returncode == 1 and "found the smoke run of" in real.stderr
    finally:
        shutil.rmtree(root, ignore_errors=True)  # 200 to 350 MB
