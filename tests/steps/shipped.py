"""The shipped recipes of the paper's systems, as tests call them: by file name, with the options that select
another system."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from dgflow.specs.step import Step

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "dit": ("imagenet256_dit", {}),
    "dit-own-classifier": ("imagenet256_dit", {"train_classifier": True}),
    "adm": ("imagenet256_adm", {}),
    "edm-cifar10-uncond": ("cifar10_edm", {}),
    "edm-cifar10-cond": (
        "cifar10_edm",
        {"conditional": True, "seeding": "edm", "seeds": [0, 50_000, 100_000]},
    ),
    "edm-cifar10-own-classifier": ("cifar10_edm", {"classifier_data": "data/imagenet"}),
    "edm-cifar10-ensemble": ("cifar10_edm_ensemble", {"bagged": True}),
    "edm-cifar10-further": ("cifar10_edm_further", {}),
    "edm-ffhq": ("ffhq64_edm", {"skip_broken": 2}),
    "edm2-imagenet512": ("imagenet512_edm2", {"discriminator": True}),
    "lsgm": ("cifar10_lsgm", {"shared_block": 100}),
    "soft-truncation": ("celeba64_soft_truncation", {"data": "celeba.zip"}),
    "digits": ("digits", {}),
    "plane": ("plane", {}),
    "plane-workbench": ("plane_workbench", {}),
    "digits-ensemble": ("digits_ensemble", {}),
    "digits-further": ("digits_further", {}),
    "digits-translate": ("digits_translate", {"starts": [0.4], "seeds": [0]}),
    "afhq-translate": ("afhq_edm_translate", {"starts": [0.4], "seeds": [0]}),
}
"""Name of the case to recipe and options."""


@cache
def recipe(name: str) -> Callable[..., Step]:
    """Returns the function `workflow` of a recipe's file."""
    spec = importlib.util.spec_from_file_location(f"shipped_{name}", WORKFLOWS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(WORKFLOWS) not in sys.path:
        sys.path.append(str(WORKFLOWS))  # for recipes that import another one
    spec.loader.exec_module(module)
    return module.workflow


def built(system: str) -> Step:
    """Returns the result of the recipe of a system."""
    name, options = SYSTEMS[system]
    return recipe(name)(**options)
