"""Layers of the ADM networks (Dhariwal & Nichol 2021), with the published parameter names. Results do not
depend on the memory format; group norms, softmaxes and time embeddings are computed in at least float32.

Shape letters: B batch, C channels, H W height and width, N tokens, E embedding width.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgflow.diffusion.float16 import Wide, WideSequential
from dgflow.networks.adm.sizes import NUM_GROUPS
from dgflow.networks.attention import attend
from dgflow.networks.precision import group_norm, wide, wide_linear

Resample = Literal["up", "down"]


def sinusoid(t_B: Tensor, dim: int) -> Tensor:
    """[cos(t f), sin(t f)] in float32, [B, dim]: f_i = 10000^(-i / half) for i < half = dim // 2; an odd dim
    ends in a zero."""
    half = dim // 2
    freqs = torch.exp(torch.arange(half, dtype=torch.float32, device=t_B.device) * (-math.log(10_000) / half))
    angles = t_B.float()[:, None] * freqs
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, dim % 2))


class TimeEmbedding(Wide, nn.Sequential):
    """Sinusoid, linear, SiLU, linear: steps [B] to [B, E], E = 4 dim, in at least float32."""

    def __init__(self, dim: int) -> None:
        super().__init__(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, 4 * dim))
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        first, silu, second = self
        assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
        return wide_linear(second, silu(wide_linear(first, sinusoid(input, self.dim))))


class GroupNorm(nn.GroupNorm):
    """Group norm with 32 groups, eps 1e-5, computed in at least float32 for any precision of the input."""

    def __init__(self, channels: int) -> None:
        super().__init__(NUM_GROUPS, channels)

    def forward(self, input: Tensor) -> Tensor:
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class Block(nn.Sequential):
    """A sequence of layers; layers that take an embedding receive it."""

    def forward(self, input: Tensor, emb_BE: Tensor) -> Tensor:
        for layer in self:
            input = layer(input, emb_BE) if isinstance(layer, ResBlock) else layer(input)
        return input


class Downsample(nn.Module):
    """Halve the side by a 3x3 convolution with stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.op(x_BCHW)


class Upsample(nn.Module):
    """Double the side by nearest neighbours, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.conv(resampled(x_BCHW, "up"))


class ResBlock(nn.Module):
    """Residual block: norm, SiLU and 3x3 convolution, twice, with the embedding in between, and a skip.

    Args:
        use_scale_shift_norm: the embedding scales and shifts after the second norm; otherwise it is added
            before it.
        resample: double ("up", nearest) or halve ("down", 2x2 means) the side before the first convolution,
            None for neither.
        dropout: probability of dropout before the second convolution, in training only.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        use_scale_shift_norm: bool,
        resample: Resample | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.use_scale_shift_norm = use_scale_shift_norm
        self.resample: Resample | None = resample
        self.in_layers = nn.Sequential(
            GroupNorm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = WideSequential(
            nn.SiLU(), nn.Linear(emb_channels, (2 if use_scale_shift_norm else 1) * out_channels)
        )
        last = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.out_layers = nn.Sequential(GroupNorm(out_channels), nn.SiLU(), nn.Dropout(dropout), last)
        self.skip_connection = (
            nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)
        )

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor) -> Tensor:
        norm, silu, conv = self.in_layers
        h = silu(norm(x_BCHW))
        if self.resample is not None:
            h, x_BCHW = resampled(h, self.resample), resampled(x_BCHW, self.resample)
        h = conv(h)
        emb = self.emb_layers(emb_BE)[:, :, None, None].to(h.dtype)
        if self.use_scale_shift_norm:
            scale, shift = emb.chunk(2, dim=1)
            norm, silu, dropout, conv = self.out_layers
            h = conv(dropout(silu(torch.addcmul(shift, norm(h), 1 + scale))))
        else:
            h = self.out_layers(h + emb)
        return self.skip_connection(x_BCHW) + h


class AttentionBlock(nn.Module):
    """Multi-head self-attention over all pixels, with a skip."""

    def __init__(self, channels: int, num_heads: int, new_order: bool) -> None:
        super().__init__()
        self.num_heads, self.new_order = num_heads, new_order
        self.norm = GroupNorm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        B, C, H, W = x_BCHW.shape
        qkv = _over_pixels(self.qkv, self.norm(x_BCHW)).flatten(2)
        if self.new_order:  # rows of qkv: q, k or v, then head, then channel
            q, k, v = qkv.reshape(B, 3, self.num_heads, -1, H * W).unbind(1)
        else:  # rows of qkv: head, then q, k or v, then channel
            q, k, v = qkv.reshape(B, self.num_heads, 3, -1, H * W).unbind(2)
        return x_BCHW + _over_pixels(self.proj_out, attend(q, k, v).reshape(B, C, H, W))


class AttentionPool(nn.Module):
    """Attention pool: the spatial mean is an extra first token, and only its result is used.

    [B, C, H, W] to [B, out].
    """

    def __init__(self, size: int, channels: int, num_head_channels: int, out_channels: int) -> None:
        super().__init__()
        self.num_heads = channels // num_head_channels
        self.positional_embedding = nn.Parameter(torch.randn(channels, size**2 + 1) / channels**0.5)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, out_channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCN = x_BCHW.flatten(2)
        x_BCN = torch.cat([x_BCN.mean(dim=2, keepdim=True), x_BCN], dim=2) + self.positional_embedding
        B, C, N = x_BCN.shape
        q, k, v = self.qkv_proj(x_BCN).reshape(B, 3, self.num_heads, -1, N).unbind(1)
        # The last product in at least float32: eight bits are too few for a log-ratio or an entropy.
        dtype, last = wide(self.c_proj.weight.dtype), self.c_proj
        assert last.bias is not None
        return F.conv1d(
            attend(q[..., :1], k, v).reshape(B, C, 1).to(dtype), last.weight.to(dtype), last.bias.to(dtype)
        ).flatten(1)


def resampled(x_BCHW: Tensor, resample: Resample) -> Tensor:
    """Double the side by nearest neighbours, or halve it by 2x2 means."""
    return (
        F.interpolate(x_BCHW, scale_factor=2, mode="nearest") if resample == "up" else F.avg_pool2d(x_BCHW, 2)
    )


def zeroed(layer: nn.Conv1d | nn.Conv2d) -> nn.Conv1d | nn.Conv2d:
    """Set the parameters of `layer` to zero, so that its branch adds nothing at the start of training."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _over_pixels(layer: nn.Conv1d | nn.Conv2d, x_BCHW: Tensor) -> Tensor:
    """Apply the 1x1 `layer`, stored as a one-dimensional convolution, to images. Flattening channels_last
    images would copy them.
    """
    return F.conv2d(x_BCHW, layer.weight[..., None], layer.bias)
