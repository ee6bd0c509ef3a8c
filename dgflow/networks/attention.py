"""Softmax attention on channels-first tensors, shared by the ADM and EDM layers."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k / sqrt(channels)) v over all tokens, [B, heads, channels, tokens] like v; q, and so the
    result, may have fewer tokens.

    The softmax is computed in at least float32, for any precision of the arguments. The result's channels are
    adjacent in memory, as in channels_last images, which therefore need no copy on the way in or out.
    """
    q, k, v = (_channels_adjacent(tensor.transpose(2, 3)) for tensor in (q, k, v))
    # The CPU's attention kernels gain no time from bfloat16. Plain products would save a tenth of a guidance
    # evaluation, but they round the softmax's arguments to eight bits, which changes the weights by a few per
    # cent for arguments of 20.
    return F.scaled_dot_product_attention(q, k, v).transpose(2, 3)


def _channels_adjacent(x_BHNC: Tensor) -> Tensor:
    # Flash kernels, which never hold the whole attention matrix, require this layout: on one CPU thread with
    # 1024 tokens, a copy makes the forward pass 2.7 times faster than the fallback, and 1.7 times with the
    # gradient.
    return x_BHNC if x_BHNC.stride(3) == 1 else x_BHNC.contiguous()
