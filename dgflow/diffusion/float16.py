"""Convert networks to float16, which has 11 bits and a range up to 65,504.

Norms, embeddings and `Wide` modules stay in float32. In the U-Nets that were published in float16,
guided-diffusion's and EDM's, all linear layers are `Wide`; in guided-diffusion's, the output layer is too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SLOW = (
    'precision="float16" is for GPUs, and several times slower than float32 on a CPU: use precision="float32"'
)
"""The warning for a process that computes in float16 on a CPU."""


def widened(x: Tensor, weight: Tensor) -> Tensor:
    """x in the dtype of a weight that stays float32 in a float16 network; x itself in other networks."""
    return x.to(weight.dtype) if x.dtype == torch.float16 else x


class Wide:
    """Mixin for modules that stay in float32 in a float16 network, including all their submodules."""


class WideLinear(Wide, nn.Linear):
    """A linear layer that stays in float32 in a float16 network."""


class WideSequential(Wide, nn.Sequential):
    """Layers that stay in float32 in a float16 network."""


def to_float16(network: nn.Module) -> None:
    """Convert a network in place, except for norms, embeddings and `Wide` modules.

    Raises ValueError for weights that float16 cannot hold: a tensor with a value above 65,504, or with values
    so small that all of them would become 0. The error names the tensor.
    """
    kinds = (Wide, nn.GroupNorm, nn.LayerNorm, nn.Embedding)
    kept = {
        parameter: parameter.data
        for module in network.modules()
        if isinstance(module, kinds)
        for parameter in module.parameters()
    }
    largest, smallest = torch.finfo(torch.float16).max, 2.0**-24
    for name, parameter in network.named_parameters():
        if parameter in kept or not parameter.is_floating_point() or parameter.is_meta:
            continue
        magnitude = float(parameter.detach().abs().max()) if parameter.numel() else 0.0
        if magnitude != 0.0 and not smallest <= magnitude <= largest:
            raise ValueError(
                f"expected weights that float16 can hold, at most {largest:,.0f} and not all below "
                f"{smallest:.1g}, found {name} with the largest magnitude {magnitude:.4g}: use "
                'precision="bfloat16" or precision="float32"'
            )
    network.to(torch.float16)
    for parameter, data in kept.items():
        parameter.data = data
