"""What a smoke run of every shipped system has to say."""

import json
import math
from pathlib import Path

RUNS = {
    "imagenet256_dit": (("fid", "sfid", "is", "precision", "recall"), ("DiT-XL/2", "DiT-XL/2-G++")),
    "imagenet256_adm": (("fid", "sfid", "is", "precision", "recall"), ("ADM-G", "ADM-G++ 3.18")),
    "cifar10_edm": (("fid",), ("EDM", "EDM-G++")),
    "ffhq64_edm": (("fid",), ("EDM", "EDM-G++")),
    "cifar10_lsgm": (("fid",), ("LSGM", "LSGM-G++")),
    "celeba64_soft_truncation": (("fid",), ("Soft Truncation", "Soft-Truncation-G++")),
}
"""Recipe to the metrics of its protocol and its arms."""
OPTIONS = {name: [()] for name in RUNS} | {"cifar10_edm": [(), ("--conditional",)]}
"""Recipe to the options of its runs, all in one root."""
THROUGH_RAY = ("cifar10_lsgm",)
"""Recipes that `make test` runs from the command line: with the one of `test_cli.py` every kind of step and
every command."""


def check_run(recipe: str, output: str, root: Path) -> None:
    metrics, arms = RUNS[recipe]
    assert output.startswith("smoke run: ")
    found = json.loads(output.splitlines()[-1])
    assert tuple(found["arms"]) == arms
    for arm in found["arms"].values():
        assert set(metrics) <= set(arm) and all(math.isfinite(arm[metric]["mean"]) for metric in metrics)
        assert any("smoke run" in line for line in arm["warnings"])
    # Guidance does something, and the discriminator that guides was trained on this run's own images.
    plain, guided = (arm["fid"]["mean"] for arm in found["arms"].values())
    assert plain != guided
    assert "<h1>Smoke run, nothing to compare with: " in (root / "report.html").read_text()
