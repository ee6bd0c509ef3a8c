"""Parts that stay in float32 when a network's weights are converted by `.to(torch.bfloat16)`: group norms,
time embeddings and their frequencies. Where nothing has to be widened, nothing is copied."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def wide(dtype: torch.dtype) -> torch.dtype:
    """`dtype` itself, or float32 for a narrower one."""
    return torch.promote_types(dtype, torch.float32)


def group_norm(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Group norm with statistics and affine map in float32 at least; the result has x's dtype."""
    # Not the kernels for half precision: CUDA's rounds the means to x's dtype, and the CPU's takes five times
    # as long for channels_last images of 16x16 as this does. Compiled, the conversions are part of the same
    # kernel.
    dtype = wide(x.dtype)
    return F.group_norm(x.to(dtype), num_groups, weight.to(dtype), bias.to(dtype), eps).to(x.dtype)


def wide_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer(x)` in float32 at least, under autocast too, which would narrow a product again."""
    dtype = wide(layer.weight.dtype)
    bias = None if layer.bias is None else layer.bias.to(dtype)
    narrows = not x.is_meta and torch.is_autocast_enabled(x.device.type)
    with torch.autocast(x.device.type, enabled=False) if narrows else nullcontext():
        return F.linear(x.to(dtype), layer.weight.to(dtype), bias)


def kept_wide(before: Tensor, after: Tensor) -> Tensor:
    """A buffer that `Module._apply` turned from `before` into `after`, with the values of `before` if it was
    made narrower than float32."""
    return before.to(after.device) if wide(after.dtype) != after.dtype else after
