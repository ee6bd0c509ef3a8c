"""DiT's files: released ones are flat state dicts, those of its training have `model`, `ema`, `opt` and
`args`, and the hub has diffusers' names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dgflow.networks.dit.module import position_table
from dgflow.weights.torch_file import Namespace, load_torch
from dgflow.weights.weight_file import File, WeightFile, called, check_state_dict, plain_items

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


def read_dit(file: File, *, source: str | None = None) -> WeightFile:
    """The averaged weights (`ema`) of a training file, with its `args` as settings, or those of a flat file.

    Raises:
        ValueError: something else, a global that is not understood, damaged or cut short.
    """
    name = called(file, source)
    found = load_torch(file, name)
    if not isinstance(found, dict) or "ema" not in found:
        return WeightFile(check_state_dict(found, name), {})
    args = dict.get(found, "args")
    settings = {"args": plain_items(vars(args))} if isinstance(args, Namespace) else {}
    return WeightFile(check_state_dict(found["ema"], name, "'ema'"), settings)


def from_diffusers(state_dict: Mapping[str, Tensor], input_size: int = 32) -> dict[str, Tensor]:
    """Weights of diffusers' `DiTTransformer2DModel` (hub folders `transformer/`) under the names of `DiT`.

    q, k and v are joined; the time and label embedders, of which diffusers stores a copy a block, must be
    equal in all blocks and become one; `pos_embed`, which diffusers computes, is added for latents of side
    `input_size`. Only weights are taken over: diffusers' own forward has slightly different time frequencies
    (10000^(-i/127) for 10000^(-i/128)) and, by default, another epsilon in the second norm of a block; `DiT`
    computes what the weights were trained with.

    Raises:
        ValueError: names missing or left over, or embedders that differ between blocks.
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
                            f"{theirs}.{kind} of block {i} differs from that of block 0: expected one "
                            "embedder for all blocks, as in "
                            "published weights; weights fine-tuned apart cannot be expressed as a DiT"
                        )
    except KeyError as error:
        raise ValueError(
            f"expected the names of diffusers' DiTTransformer2DModel: {error.args[0]} is missing"
        ) from error
    rest.pop("pos_embed.pos_embed", None)  # stored by some versions
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
