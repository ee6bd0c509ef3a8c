"""Read DiT's files: released files are flat state dicts, training checkpoints have `model`, `ema`, `opt` and
`args`, and the hub uses diffusers' names.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dgflow.networks.dit.module import position_table
from dgflow.weights.checkpoints import fitting
from dgflow.weights.torch_file import Namespace, load_torch
from dgflow.weights.weight_file import File, WeightFile, called, check_state_dict, plain_items

_log = logging.getLogger(__name__)

_FROM_DIFFUSERS_SHARED = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "y_embedder.embedding_table": "class_embedder.embedding_table",
}
_FROM_DIFFUSERS_BLOCK = {
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "adaLN_modulation.1": "norm1.linear",
}
_FROM_DIFFUSERS_ENDS = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}


_SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
"""Depth, width and number of heads of the published models, by name."""


def named_settings(model: Any) -> dict[str, Any]:
    """The settings of a published name such as "DiT-XL/2"; empty for another name."""
    size, _, patch = model.removeprefix("DiT-").partition("/") if isinstance(model, str) else ("", "", "")
    if size not in _SIZES or not patch.isdecimal():
        return {}
    depth, width, heads = _SIZES[size]
    return {"depth": depth, "hidden_size": width, "num_heads": heads, "patch_size": int(patch)}


def read_dit(file: File, network: nn.Module | None = None, *, source: str | None = None) -> WeightFile:
    """Read the averaged weights (`ema`) of a training checkpoint, with its `args` as settings, or the weights
    of a flat file.

    Args:
        network: selects the part that fits it, by `checkpoints.fitting`.

    Raises:
        ValueError: the file has another format or a global that is not allowed, or is damaged or truncated.
    """
    name = called(file, source)
    found = load_torch(file, name)
    settings: dict[str, Any] = {}
    if isinstance(found, dict) and "ema" in found:
        args = dict.get(found, "args")
        args = vars(args) if isinstance(args, Namespace) else args
        settings = {"args": plain_items(args)} if args else {}
        found, name = check_state_dict(found["ema"], name, "'ema'"), f"{name}, 'ema'"
    if network is None:
        return WeightFile(check_state_dict(found, name), settings)
    tensors, note = fitting(found, network, name)
    if note:
        _log.warning("%s: %s", name, note)
    return WeightFile(tensors, settings)


def from_diffusers(state_dict: Mapping[str, Tensor], input_size: int = 32) -> dict[str, Tensor]:
    """Rename weights of diffusers' `DiTTransformer2DModel` (hub folders `transformer/`) to the names of
    `DiT`.

    - q, k and v are joined.
    - The time and label embedders, of which diffusers stores one copy per block, must be equal in all blocks
      and become one.
    - `pos_embed`, which diffusers computes, is added for latents of side `input_size`.

    Only the weights are converted. diffusers' forward has slightly different time frequencies (10000^(-i/127)
    instead of 10000^(-i/128)) and, by default, another epsilon in the second norm of a block. `DiT` uses the
    values with which the weights were trained.

    Raises:
        ValueError: names are missing or left over, or embedders differ between blocks.
    """
    rest = dict(state_dict)
    depth = len({name.split(".")[1] for name in rest if name.startswith("transformer_blocks.")})
    found: dict[str, Tensor] = {}
    try:
        for kind in ("weight", "bias"):
            for ours, theirs in _FROM_DIFFUSERS_ENDS.items():
                found[f"{ours}.{kind}"] = rest.pop(f"{theirs}.{kind}")
            for i in range(depth):
                block = f"transformer_blocks.{i}"
                qkv = [rest.pop(f"{block}.attn1.to_{part}.{kind}") for part in "qkv"]
                found[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(qkv)
                for ours, theirs in _FROM_DIFFUSERS_BLOCK.items():
                    found[f"blocks.{i}.{ours}.{kind}"] = rest.pop(f"{block}.{theirs}.{kind}")
                for ours, theirs in _FROM_DIFFUSERS_SHARED.items():
                    if ours.startswith("y_embedder") and kind == "bias":
                        continue
                    copy = rest.pop(f"{block}.norm1.emb.{theirs}.{kind}")
                    if not torch.equal(found.setdefault(f"{ours}.{kind}", copy), copy):
                        raise ValueError(
                            f"expected one embedder for all blocks, as in published weights, found another "
                            f"{theirs}.{kind} in block {i} than in block 0: embedders that were fine-tuned "
                            "separately cannot be expressed as a DiT"
                        )
    except KeyError as error:
        raise ValueError(
            f"expected the names of diffusers' DiTTransformer2DModel: {error.args[0]} is missing"
        ) from error
    rest.pop("pos_embed.pos_embed", None)  # stored by some versions of diffusers
    if rest:
        raise ValueError(
            f"expected the names of diffusers' DiTTransformer2DModel, found {len(rest)} more, such as "
            f"{sorted(rest)[0]}"
        )
    projection = found["x_embedder.proj.weight"]
    found["pos_embed"] = position_table(projection.shape[0], input_size // projection.shape[-1]).to(
        projection
    )
    return found
