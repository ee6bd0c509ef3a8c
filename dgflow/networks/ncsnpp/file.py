"""Soft Truncation's `.pth`, of the score_sde family: `optimizer`, `model`, `ema` and `step`.

`model` has the prefix of DataParallel; the averages that sampling uses are a list without names, in the order
of the trainable parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from dgflow.weights.torch_file import load_torch, save_torch
from dgflow.weights.weight_file import (
    ORDER,
    File,
    WeightFile,
    called,
    check_state_dict,
    plain_items,
    replaced,
    section,
    unaveraged,
)

_PREFIX = "module."
_KIND = "a checkpoint of Soft Truncation"


def read_soft_truncation(file: File, ema_names: Sequence[str], *, source: str | None = None) -> WeightFile:
    """The averaged weights, with what has no average (buffers, frozen frequencies) as the network had it.

    Args:
        ema_names: names of the trainable parameters, in `parameters()` order and without `module.`.

    Returns:
        Settings: `step` and the averages' `decay` and `num_updates`, where the file has them.

    Raises:
        ValueError: something else, damaged or cut short; or the averages fit the names in neither number,
            shape nor dtype.
    """
    name = called(file, source)
    found = load_torch(file, name)
    model = check_state_dict(section(found, "model", name, _KIND), name, "'model'")
    ema = section(found, "ema", name, _KIND)
    averages = section(ema, "shadow_params", name, f"{_KIND}, its 'ema'")
    if not isinstance(averages, list) or len(averages) != len(ema_names):
        count = len(averages) if isinstance(averages, list) else f"a {type(averages).__name__}"
        raise ValueError(
            f"{name}: expected {len(ema_names)} averages in 'shadow_params', one a trainable parameter, "
            f"found {count}: {ORDER}"
        )
    tensors = {key.removeprefix(_PREFIX): tensor for key, tensor in model.items()}
    settings = {
        key: part[key]
        for part, keys in ((found, ["step"]), (ema, ["decay", "num_updates"]))
        for key in keys
        if key in part
    }
    return WeightFile(
        replaced(tensors, dict(zip(ema_names, averages, strict=True)), name), plain_items(settings)
    )


def write_soft_truncation(tensors: Mapping[str, Tensor], ema_names: Sequence[str]) -> bytes:
    """Soft Truncation's `.pth`: `tensors` as the averages, which it holds for the trainable parameters
    `ema_names`, in their order."""
    model = {f"{_PREFIX}{name}": tensor for name, tensor in unaveraged(tensors, ema_names).items()}
    ema = {"decay": 0.9999, "num_updates": 1, "shadow_params": [tensors[name].clone() for name in ema_names]}
    optimizer = {"state": {}, "param_groups": [{"lr": 2e-4, "params": list(range(len(ema_names)))}]}
    return save_torch({"optimizer": optimizer, "model": model, "ema": ema, "step": 1})
