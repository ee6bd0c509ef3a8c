"""Operations that stay in float32 when a network is converted to bfloat16 or float16: group norms, time
embeddings and their frequencies. A tensor is copied only if it must be widened. In float16 networks, the
weights of these operations stay float32 too (`diffusion.float16`).
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return `dtype`, or float32 if `dtype` is narrower."""
    return torch.promote_types(dtype, torch.float32)


def group_norm(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Group norm with statistics and affine map in at least float32; the result has x's dtype."""
    # Not the half-precision kernels: CUDA's rounds the means to x's dtype, and the CPU's takes five times as
    # long as this for channels_last images of 16x16. Compiled, the conversions are fused into the same
    # kernel.
    dtype = wide(x.dtype)
    return F.group_norm(x.to(dtype), num_groups, weight.to(dtype), bias.to(dtype), eps).to(x.dtype)


def wide_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer(x)` in at least float32, even under autocast, which would narrow the product again."""
    dtype = wide(layer.weight.dtype)
    bias = None if layer.bias is None else layer.bias.to(dtype)
    narrows = not x.is_meta and torch.is_autocast_enabled(x.device.type)
    with torch.autocast(x.device.type, enabled=False) if narrows else nullcontext():
        return F.linear(x.to(dtype), layer.weight.to(dtype), bias)


def kept_wide(before: Tensor, after: Tensor) -> Tensor:
    """Return the buffer `after` that `Module._apply` made from `before`, or the values of `before` if `after`
    is narrower than float32.
    """
    return before.to(after.device) if wide(after.dtype) != after.dtype else after
