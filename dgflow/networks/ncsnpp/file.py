"""Read and write Soft Truncation's `.pth` files, of the score_sde family: `optimizer`, `model`, `ema` and
`step`.

The names in `model` have the prefix of DataParallel. The averages for sampling are an unnamed list, in the
order of the trainable parameters.
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
    """Read the averaged weights; tensors without an average (buffers, frozen frequencies) come from `model`.

    Args:
        ema_names: names of the trainable parameters, in `parameters()` order and without `module.`.

    Returns:
        Settings: `step`, and `decay` and `num_updates` of the averages, if present.

    Raises:
        ValueError: the file has another format, is damaged or truncated; or the averages do not match the
            names in number, shape or dtype.
    """
    name = called(file, source)
    found = load_torch(file, name)
    model = check_state_dict(section(found, "model", name, _KIND), name, "'model'")
    ema = section(found, "ema", name, _KIND)
    averages = section(ema, "shadow_params", name, f"{_KIND}, its 'ema'")
    if not isinstance(averages, list) or len(averages) != len(ema_names):
        count = len(averages) if isinstance(averages, list) else f"a {type(averages).__name__}"
        raise ValueError(
            f"{name}: expected {len(ema_names)} averages in 'shadow_params', one per trainable parameter, "
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
    """Encode Soft Truncation's `.pth`: `tensors` as the averages of the trainable parameters `ema_names`, in
    that order.
    """
    model = {f"{_PREFIX}{name}": tensor for name, tensor in unaveraged(tensors, ema_names).items()}
    ema = {"decay": 0.9999, "num_updates": 1, "shadow_params": [tensors[name].clone() for name in ema_names]}
    optimizer = {"state": {}, "param_groups": [{"lr": 2e-4, "params": list(range(len(ema_names)))}]}
    return save_torch({"optimizer": optimizer, "model": model, "ema": ema, "step": 1})
