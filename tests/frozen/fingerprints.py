"""Writes the fingerprints of every catalogue entry, of every step of the shipped recipes, and of their smoke
runs.

    python tests/frozen/fingerprints.py > tests/frozen/fingerprints.json

A difference means that roots which people have are no longer valid. Raise the `schema_version` of the kind
that changed, say so in CHANGELOG.md, and only then write the file again.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from dgflow import official
from dgflow.networks.catalogue import CATALOGUE
from dgflow.specs.graph import graph
from dgflow.specs.step import Target
from dgflow.testing.smoke import smoke

HERE = Path(__file__).resolve().parent
WORKFLOWS = HERE.parents[1] / "workflows"
RECIPES: list[tuple[str, dict[str, Any]]] = [
    ("digits", {}),
    ("digits", {"samples": 500, "fakes": 700, "guidance_weight": 1.0, "score_epochs": 3, "epochs": 2}),
    ("digits", {"discriminator_seeds": 3}),
    ("digits_ensemble", {}),
    ("digits_further", {}),
    ("digits_translate", {}),
    ("digits_workbench", {}),
    ("cifar10_edm_workbench", {}),
    ("digits_selection", {}),
    ("plane", {}),
    ("plane", {"model": "blind", "loss": "all"}),
    ("plane_workbench", {}),
    ("cifar10_edm", {}),
    ("cifar10_edm_ensemble", {}),
    ("cifar10_edm_ensemble", {"bagged": True, "boosted": True, "steps": 35}),
    ("cifar10_edm", {"best": True, "held_out": 0.1, "samples": 1_000, "fakes": 2_000, "epochs": 3}),
    ("cifar10_edm", {"conditional": True}),
    ("cifar10_edm", {"conditional": True, "seeding": "edm", "seeds": [0, 50_000, 100_000]}),
    ("cifar10_edm", {"classifier_data": "data/imagenet/train"}),
    ("cifar10_edm_further", {}),
    ("afhq_edm_translate", {}),
    ("ffhq64_edm", {}),
    ("ffhq64_edm", {"skip_broken": 2}),
    ("imagenet256_adm", {}),
    ("imagenet256_adm", {"row": "3.73"}),
    ("imagenet256_adm", {"row": "4.66"}),
    ("imagenet256_adm", {"row": "4.45"}),
    ("imagenet256_dit", {}),
    ("imagenet256_dit", {"train_classifier": True, "precision": "bfloat16"}),
    ("imagenet512_edm2", {}),
    ("imagenet512_edm2", {"size": "xxl", "discriminator": True}),
    ("cifar10_lsgm", {}),
    ("cifar10_lsgm", {"shared_block": 100}),
    ("celeba64_soft_truncation", {}),
    ("celeba64_soft_truncation", {"data": "celeba.zip"}),
]


def recipe(path: Path) -> Any:
    """The `workflow` function of the recipe at `path`."""
    spec = importlib.util.spec_from_file_location(f"frozen_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where the command line looks for its docstring
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # for recipes that read another one
    spec.loader.exec_module(module)
    return module.workflow


def steps(target: Target) -> list[str]:
    """Kind and fingerprint of every step of `target`, sorted; the last one is the target's."""
    return [
        *sorted(f"{node.step.kind} {node.step.fingerprint}" for node in graph(target)),
        graph(target)[-1].step.fingerprint,
    ]


def fingerprints() -> dict[str, Any]:
    """Every frozen fingerprint, by section and name."""
    targets = {
        " ".join([name, json.dumps(options)]): recipe(WORKFLOWS / f"{name}.py")(**options)
        for name, options in RECIPES
    }
    entries = {name: official(name).step.fingerprint for name, file in CATALOGUE.items() if file.network}
    parts = {
        f"{name} {part}": official(name, part).step.fingerprint
        for name, file in CATALOGUE.items()
        for part in ("prior", "vae")
        if part in file.network
    }
    return {
        "catalogue": entries | parts,
        "recipes": {name: steps(target) for name, target in targets.items()},
        "smoke": {name: steps(smoke(target, "s3://bucket/smoke").target) for name, target in targets.items()},
        "asset": steps(recipe(HERE / "recipe.py")()),
    }


if __name__ == "__main__":
    json.dump(fingerprints(), sys.stdout, indent=1, sort_keys=True)
    print()
