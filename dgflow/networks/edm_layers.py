"""Layers of EDM's SongUNet (DDPM++ and NCSN++ in one), with the published parameter and buffer names.

Source: Karras et al. 2022 and the networks of Song et al. 2021 that it reimplements. All in float32.
Shape letters: B batch, C channels, H W height and width, E embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgflow.networks.attention import attend

INIT_SMALL = 1e-5
"""Scale of the initial weights of layers that end a branch: the branch starts close to zero."""


def linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    """Linear layer with the initialisation of the original: Xavier uniform, bias zero."""
    layer = nn.Linear(in_features, out_features, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int) -> nn.GroupNorm:
    """At most 32 groups of at least 4 channels, eps 1e-6."""
    return nn.GroupNorm(max(1, min(32, channels // 4)), channels, eps=1e-6)


class Conv2d(nn.Module):
    """Convolution with optional resampling by a FIR filter. `kernel=0` only resamples and keeps no weight.

    The signal is resampled first and convolved second; `fused` (down only) convolves first. Borders are zero-padded.

    Args:
        resample: None, or to double ("up") or halve ("down") the side.
        resample_filter: taps of the separable filter; [1, 1] is nearest neighbour up and 2x2 means down.
        init_weight: factor on the Xavier-uniform initial weight.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        resample: Literal["up", "down"] | None = None,
        resample_filter: Sequence[float] = (1, 1),
        fused: bool = False,
        init_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.kernel, self.resample, self.fused = kernel, resample, fused
        self.is_box = list(resample_filter) == [1, 1]
        if kernel:
            weight = nn.init.xavier_uniform_(torch.empty(out_channels, in_channels, kernel, kernel))
            self.weight = nn.Parameter(weight * init_weight)
            self.bias = nn.Parameter(torch.zeros(out_channels))
        if resample is not None:
            taps = torch.as_tensor(resample_filter, dtype=torch.float32)
            self.register_buffer("resample_filter", (taps.outer(taps) / taps.sum() ** 2)[None, None])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.resample is None:
            return F.conv2d(x_BCHW, self.weight, self.bias, padding=self.kernel // 2)
        if self.fused:
            overlap = (self.resample_filter.shape[-1] - 1) // 2
            h = F.conv2d(x_BCHW, self.weight, padding=self.kernel // 2 + overlap)
            return self._filtered(h, padding=0) + self.bias[:, None, None]
        x_BCHW = self._filtered(x_BCHW, padding=(self.resample_filter.shape[-1] - 1) // 2)
        return F.conv2d(x_BCHW, self.weight, self.bias, padding=self.kernel // 2) if self.kernel else x_BCHW

    def _filtered(self, x_BCHW: Tensor, padding: int) -> Tensor:
        if self.is_box:  # the same numbers as the depthwise convolution below, several times faster on a CPU
            return F.interpolate(x_BCHW, scale_factor=2, mode="nearest") if self.resample == "up" else F.avg_pool2d(x_BCHW, 2)
        channels = x_BCHW.shape[1]
        taps = self.resample_filter.expand(channels, -1, -1, -1)
        if self.resample == "up":  # 4 = the zeros that upsampling by two puts between samples, to keep the mean
            return F.conv_transpose2d(x_BCHW, 4 * taps, stride=2, padding=padding, groups=channels)
        return F.conv2d(x_BCHW, taps, stride=2, padding=padding, groups=channels)


class UNetBlock(nn.Module):
    """Residual block with the embedding added before its second norm, then optional single-head attention.

    Both sums of the block are scaled by sqrt(1/2).

    Args:
        resample: the first convolution and the skip change the side by two, None for neither.
        attention: self-attention over all pixels after the residual part.
        dropout: probability, before the second convolution, in training only.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        resample: Literal["up", "down"] | None = None,
        resample_filter: Sequence[float] = (1, 1),
        attention: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout, self.attention = dropout, attention
        self.norm0 = group_norm(in_channels)
        self.conv0 = Conv2d(in_channels, out_channels, 3, resample=resample, resample_filter=resample_filter)
        self.affine = linear(emb_channels, out_channels)
        self.norm1 = group_norm(out_channels)
        self.conv1 = Conv2d(out_channels, out_channels, 3, init_weight=INIT_SMALL)
        self.skip = nn.Identity()
        if in_channels != out_channels or resample is not None:
            self.skip = Conv2d(in_channels, out_channels, 1, resample=resample, resample_filter=resample_filter)
        if attention:
            self.norm2 = group_norm(out_channels)
            self.qkv = Conv2d(out_channels, 3 * out_channels, 1, init_weight=math.sqrt(0.2))
            self.proj = Conv2d(out_channels, out_channels, 1, init_weight=INIT_SMALL)

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x_BCHW))) + self.affine(emb_BE)[:, :, None, None]
        h = self.conv1(F.dropout(F.silu(self.norm1(h)), self.dropout, self.training))
        x_BCHW = (h + self.skip(x_BCHW)) * math.sqrt(0.5)
        if self.attention:
            B, C, H, W = x_BCHW.shape
            # Rows of qkv: channel, then q, k or v.
            q, k, v = self.qkv(self.norm2(x_BCHW)).reshape(B, 1, C, 3, H * W).unbind(3)
            x_BCHW = (self.proj(attend(q, k, v).reshape(B, C, H, W)) + x_BCHW) * math.sqrt(0.5)
        return x_BCHW


class PositionalEmbedding(nn.Module):
    """[sin(c f), cos(c f)] with frequencies f_i = 10000^(-i / (half - 1)), i < half = dim / 2, so that the last is 1/10000 exactly."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, c_noise_B: Tensor) -> Tensor:
        half = self.dim // 2
        exponents = torch.arange(half, dtype=torch.float32, device=c_noise_B.device) / (half - 1)
        angles = c_noise_B.outer((1 / 10_000) ** exponents)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class FourierEmbedding(nn.Module):
    """[sin(2 pi c f), cos(2 pi c f)] with random frequencies f ~ N(0, scale^2) drawn at construction and stored as a buffer."""

    freqs: Tensor

    def __init__(self, dim: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(dim // 2) * scale)

    def forward(self, c_noise_B: Tensor) -> Tensor:
        angles = c_noise_B.outer(2 * math.pi * self.freqs)
        return torch.cat([angles.sin(), angles.cos()], dim=1)
