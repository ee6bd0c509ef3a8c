"""Read and write LSGM's checkpoints: prior (`dae`) and NVAE (`vae`) in one file, with the run's arguments.

`checkpoint.pt` holds the raw prior, and its averages in the optimiser's state, by position.
`checkpoint_fid.pt` and similar files have no optimiser and an averaged prior. The NVAE has no averages.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from dgflow.weights.torch_file import Namespace, load_torch, save_torch
from dgflow.weights.weight_file import (
    ORDER,
    File,
    WeightFile,
    called,
    check_state_dict,
    plain_items,
    replaced,
    section,
    short,
    unaveraged,
)

_KIND = "a checkpoint of LSGM"
_SETTINGS = ("epoch", "global_step", "best_score", "best_score_fid", "best_score_nll")
# The Fourier frequencies: a parameter with a position, but never updated, so without an average
_UNTRAINED = "temb_fun.w"


def read_lsgm(
    file: File,
    part: Literal["prior", "vae"],
    ema_names: Sequence[str] | None = None,
    *,
    source: str | None = None,
) -> WeightFile:
    """Read the weights of one of the two networks; the prior's are the averages.

    Args:
        ema_names: for the prior, the names of its parameters in `parameters()` order; needed if the file has
            an optimiser.

    Returns:
        Settings: `args` (the run's arguments) and, if present, `epoch`, `global_step` and the best scores.

    Raises:
        ValueError: the file has another format, is damaged or truncated; or the averages do not match the
            names in number, shape or dtype.
    """
    name = called(file, source)
    found = load_torch(file, name)
    key = "dae_state_dict" if part == "prior" else "vae_state_dict"
    tensors = check_state_dict(section(found, key, name, _KIND), name, f"{key!r}")
    if part == "prior" and "dae_optimizer" in found:
        tensors = replaced(tensors, _averages(found["dae_optimizer"], ema_names, name), name)
    args = section(found, "args", name, _KIND)
    settings = plain_items({key: found[key] for key in _SETTINGS if key in found})
    return WeightFile(
        tensors, {"args": plain_items(vars(args) if isinstance(args, Namespace) else args), **settings}
    )


def _averages(optimizer: Any, ema_names: Sequence[str] | None, source: str) -> dict[str, Tensor]:
    if ema_names is None:
        raise ValueError(f"{source}: the averages are in the optimizer's state, by position: {ORDER}")
    state = section(optimizer, "state", source, f"{_KIND}, its 'dae_optimizer'")
    groups = section(optimizer, "param_groups", source, f"{_KIND}, its 'dae_optimizer'")
    groups = groups if isinstance(groups, list) else []
    lists = [section(group, "params", source, f"{_KIND}, its optimizer's groups") for group in groups]
    lists = [positions for positions in lists if isinstance(positions, list)]
    count = sum(len(positions) for positions in lists)  # before joining them: one list may occur many times
    if count != len(ema_names):
        raise ValueError(
            f"{source}: expected an optimizer of {len(ema_names)} parameters, found one of {count}: {ORDER}"
        )
    positions = [at for found in lists for at in found]
    averages = {}
    for name, at in zip(ema_names, positions, strict=True):
        if isinstance(at, int) and isinstance(state, dict) and at in state:
            averages[name] = section(state[at], "ema", source, f"{_KIND}, its optimizer's state of {name!r}")
        elif name != _UNTRAINED:
            raise ValueError(
                f"{source}: expected an average of {name!r}, the parameter at position {short(at)}, found "
                f"none: {ORDER}"
            )
    return averages


def write_lsgm(
    prior: Mapping[str, Tensor], ema_names: Sequence[str], vae: Mapping[str, Tensor], args: Mapping[str, Any]
) -> bytes:
    """Encode LSGM's `checkpoint.pt`, with the run's arguments: `prior` as the averages, which the optimiser
    holds by position, and the NVAE.
    """
    state = {position: {"step": 1, "ema": prior[name].clone()} for position, name in enumerate(ema_names)}
    optimizer = {"state": state, "param_groups": [{"lr": 1e-4, "params": list(range(len(ema_names)))}]}
    found = {
        "epoch": 1,
        "global_step": 1,
        "args": argparse.Namespace(**args),
        "dae_state_dict": unaveraged(prior, ema_names),
        "vae_state_dict": dict(vae),
    }
    return save_torch(found | {"dae_optimizer": optimizer})
