"""Every shipped system from the command line at toy size: `python workflows/X.py run --smoke`, with Ray, to a
table of finite numbers."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from steps.shipped import WORKFLOWS

RUNS = {
    "imagenet256_dit": (("fid", "sfid", "is", "precision", "recall"), ("DiT-XL/2", "DiT-XL/2-G++")),
    "imagenet256_adm": (("fid", "sfid", "is", "precision", "recall"), ("ADM-G", "ADM-G++ 3.18")),
    "cifar10_edm": (("fid",), ("EDM", "EDM-G++")),
    "ffhq64_edm": (("fid",), ("EDM", "EDM-G++")),
    "cifar10_lsgm": (("fid",), ("LSGM", "LSGM-G++")),
    "celeba64_soft_truncation": (("fid",), ("Soft Truncation", "Soft-Truncation-G++")),
}
"""Recipe to the metrics of its protocol and its arms."""
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
        timeout=500,
    )


def checked(recipe: str, run: subprocess.CompletedProcess[str], root: Path) -> None:
    metrics, arms = RUNS[recipe]
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.startswith("smoke run: ")
    found = json.loads(run.stdout.splitlines()[-1])
    assert tuple(found["arms"]) == arms
    for arm in found["arms"].values():
        assert set(metrics) <= set(arm) and all(math.isfinite(arm[metric]["mean"]) for metric in metrics)
        assert any("smoke run" in line for line in arm["warnings"])
    # Guidance does something, and the discriminator that guides was trained on this run's own images.
    plain, guided = (arm["fid"]["mean"] for arm in found["arms"].values())
    assert plain != guided
    assert "<h1>Smoke run, nothing to compare with: " in (root / "report.html").read_text()


@pytest.mark.parametrize("recipe", RUNS)
def test_a_recipe_runs_the_whole_way_at_toy_size(recipe: str, tmp_path: Path) -> None:
    root = tmp_path / "runs" / f"{recipe}-smoke"
    try:
        checked(recipe, command(recipe, "run", "--smoke", "--json", cwd=tmp_path), root)
        if recipe == "cifar10_edm":
            checked(recipe, command(recipe, "run", "--smoke", "--conditional", "--json", cwd=tmp_path), root)
        if recipe == "cifar10_lsgm":
            again = command(recipe, "run", "--smoke", cwd=tmp_path)
            assert again.returncode == 0 and "done" not in again.stderr, again.stderr
            for other in ("status", "verify", "report"):
                assert command(recipe, other, "--smoke", cwd=tmp_path).returncode == 0
            real = command(recipe, "plan", "--root", str(root), cwd=tmp_path)
            assert real.returncode == 1 and "found the smoke run of" in real.stderr
    finally:
        shutil.rmtree(root, ignore_errors=True)  # 200 to 350 MB
