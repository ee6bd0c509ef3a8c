"""Softmax attention on channels-first tensors, shared by the ADM and EDM layers."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k / sqrt(channels)) v over all tokens, [B, heads, channels, tokens] like v; q may have fewer
    tokens, as has the result.

    The softmax is in float32 at least, whatever the precision of the arguments. The result's channels are
    adjacent in memory, and so are those of images in the channels_last format: for these nothing is copied on
    the way in or out.
    """
    q, k, v = (_channels_adjacent(tensor.transpose(2, 3)) for tensor in (q, k, v))
    # The CPU's kernels for this gain no time from bfloat16. Plain products would, a tenth of a guidance
    # evaluation, but they round the softmax's arguments to eight bits, and the weights by a few per cent
    # where these are 20.
    return F.scaled_dot_product_attention(q, k, v).transpose(2, 3)


def _channels_adjacent(x_BHNC: Tensor) -> Tensor:
    # The kernels that never hold the whole attention matrix (flash) ask for it: on one CPU thread with 1024
    # tokens a copy makes this 2.7 times faster forwards than the fallback, and 1.7 times with the gradient.
    return x_BHNC if x_BHNC.stride(3) == 1 else x_BHNC.contiguous()
