"""Checks of a smoke run of every shipped system."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

RUNS = {
    "imagenet256_dit": (("fid", "sfid", "is", "precision", "recall"), ("DiT-XL/2", "DiT-XL/2-G++")),
    "imagenet256_adm": (("fid", "sfid", "is", "precision", "recall"), ("ADM-G", "ADM-G++ 3.18")),
    "cifar10_edm": (("fid",), ("EDM", "EDM-G++")),
    "cifar10_edm_ensemble": (("fid",), ("EDM", "D0", "D1", "EDM-G++, logits", "EDM-G++, probabilities")),
    "cifar10_edm_further": (
        ("fid", "training", "sampling"),
        ("EDM", "trained further", "EDM-G++", "in turn", "weighted"),
    ),
    "afhq_edm_translate": (("fid", "l2", "perceptual"), ("EDM, start 0.4", "EDM-G++, start 0.4", "source")),
    "ffhq64_edm": (("fid",), ("EDM", "EDM-G++")),
    "cifar10_lsgm": (("fid",), ("LSGM", "LSGM-G++")),
    "imagenet512_edm2": (
        ("fid", "training", "sampling"),
        ("EDM2", "classifier-free", "autoguidance", "EDM2-G++"),
    ),
    "celeba64_soft_truncation": (("fid",), ("Soft Truncation", "Soft-Truncation-G++")),
}
"""Recipe to the metrics of its protocol and its arms, the unguided one first."""
OPTIONS = {name: [()] for name in RUNS} | {
    "cifar10_edm": [(), ("--conditional", "--likelihood", "50", "--mechanism", "20")],
    "imagenet256_dit": [("--mechanism", "8")],
    "cifar10_edm_ensemble": [("--members", "2", "--bagged")],
    "afhq_edm_translate": [("--starts", "0.4", "--seeds", "0")],
    "imagenet512_edm2": [("--discriminator",)],
}
"""Recipe to the options of its runs, all in one root."""
WITHOUT_RAY = OPTIONS | {"cifar10_lsgm": [("--mechanism", "8")]}
THROUGH_RAY = ("cifar10_edm", "cifar10_lsgm")
"""Recipes that `make test-slow` runs from the command line, through Ray: images and latents, which together
with the recipe of `test_cli.py` have every kind of training and of pool."""

LONG = ("cifar10_edm_further", "afhq_edm_translate", "imagenet512_edm2")
"""Recipes that `make test-slow` runs and `make test` does not: the steps that they add have tests of their
own."""


def check_run(recipe: str, output: str, root: Path, options: Sequence[str]) -> None:
    metrics, arms = RUNS[recipe]
    if "--likelihood" in options:
        metrics = (*metrics, "nll", "nelbo")
    assert output.startswith("smoke run: ")
    found = json.loads(output.splitlines()[-1])
    assert sorted(found["arms"]) == sorted(arms)
    for arm in found["arms"].values():
        assert set(metrics) <= set(arm) and all(math.isfinite(arm[metric]["mean"]) for metric in metrics)
        assert any("smoke run" in line for line in arm["warnings"])
    # Guidance has an effect, and the discriminator that guides was trained on this run's own images.
    plain, *guided = (found["arms"][name]["fid"]["mean"] for name in arms)
    assert plain not in guided
    assert "<h1>Smoke run, meaningless results: " in (root / "report.html").read_text()
