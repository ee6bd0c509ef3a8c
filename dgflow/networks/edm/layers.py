"""Layers of EDM's SongUNet (DDPM++ and NCSN++ in one) and DhariwalUNet (ADM), with the published parameter
and buffer names. Results do not depend on the memory format; group norms, softmaxes, noise embeddings and
random frequencies are computed in at least float32.

Shape letters: B batch, C channels, H W height and width, E embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgflow.diffusion.float16 import WideLinear
from dgflow.networks.attention import attend
from dgflow.networks.precision import group_norm, kept_wide

INIT_SMALL = 1e-5
"""Scale of the initial weights of a branch's last layer: the branch starts close to zero."""


def linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    """Linear layer with the original's initialisation: Xavier uniform, bias zero."""
    layer = WideLinear(in_features, out_features, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class GroupNorm(nn.GroupNorm):
    """Group norm with at most 32 groups of at least 4 channels, computed in at least float32 for any
    precision of the input.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__(max(1, min(32, channels // 4)), channels, eps=eps)

    def forward(self, input: Tensor) -> Tensor:
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class Conv2d(nn.Module):
    """Convolution with optional resampling by a FIR filter. `kernel=0` only resamples and has no weight.

    The input is resampled, then convolved; `fused` (down only) convolves first. Borders are zero-padded.

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
        if self.is_box:  # equal to the depthwise convolution below, several times faster on a CPU
            return (
                F.interpolate(x_BCHW, scale_factor=2, mode="nearest")
                if self.resample == "up"
                else F.avg_pool2d(x_BCHW, 2)
            )
        channels = x_BCHW.shape[1]
        taps = self.resample_filter.expand(channels, -1, -1, -1)
        if self.resample == "up":  # 4: keeps the mean, since upsampling by two inserts zeros
            return F.conv_transpose2d(x_BCHW, 4 * taps, stride=2, padding=padding, groups=channels)
        return F.conv2d(x_BCHW, taps, stride=2, padding=padding, groups=channels)


class UNetBlock(nn.Module):
    """Residual block with the embedding between its two convolutions, then optional multi-head attention.
    Defaults as in DhariwalUNet.

    Args:
        resample: the first convolution and the skip change the side by a factor of two; None for no change.
        num_heads: heads of the self-attention over all pixels after the residual part; 0 for no attention.
        dropout: probability of dropout before the second convolution, in training only.
        adaptive_scale: the embedding scales and shifts after the second norm; otherwise it is added before
            it.
        skip_scale: factor on both sums of the block.
        eps: epsilon of the group norms.
        resample_proj: a resampling skip has a 1x1 convolution even if the width does not change.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        resample: Literal["up", "down"] | None = None,
        resample_filter: Sequence[float] = (1, 1),
        num_heads: int = 0,
        dropout: float = 0.0,
        adaptive_scale: bool = True,
        skip_scale: float = 1.0,
        eps: float = 1e-5,
        resample_proj: bool = False,
    ) -> None:
        super().__init__()
        if num_heads and out_channels % num_heads:
            raise ValueError(f"{out_channels} channels cannot be split into {num_heads} attention heads")
        self.dropout, self.num_heads, self.adaptive_scale, self.skip_scale = (
            dropout,
            num_heads,
            adaptive_scale,
            skip_scale,
        )
        self.norm0 = GroupNorm(in_channels, eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, resample=resample, resample_filter=resample_filter)
        self.affine = linear(emb_channels, out_channels * (2 if adaptive_scale else 1))
        self.norm1 = GroupNorm(out_channels, eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3, init_weight=INIT_SMALL)
        self.skip = nn.Identity()
        if in_channels != out_channels or resample is not None:
            kernel = 1 if in_channels != out_channels or resample_proj else 0
            self.skip = Conv2d(
                in_channels, out_channels, kernel, resample=resample, resample_filter=resample_filter
            )
        if num_heads:
            self.norm2 = GroupNorm(out_channels, eps)
            self.qkv = Conv2d(out_channels, 3 * out_channels, 1, init_weight=math.sqrt(0.2))
            self.proj = Conv2d(out_channels, out_channels, 1, init_weight=INIT_SMALL)

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x_BCHW)))
        emb = self.affine(emb_BE)[:, :, None, None].to(h.dtype)
        if self.adaptive_scale:
            scale, shift = emb.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm1(h), 1 + scale)
        else:
            h = self.norm1(h + emb)
        h = self.conv1(F.dropout(F.silu(h), self.dropout, self.training))
        x_BCHW = self._scaled(h + self.skip(x_BCHW))
        if self.num_heads:
            B, C, H, W = x_BCHW.shape
            # Row order of qkv: head; channel; q, k or v.
            q, k, v = (
                self.qkv(self.norm2(x_BCHW)).flatten(2).reshape(B, self.num_heads, -1, 3, H * W).unbind(3)
            )
            x_BCHW = self._scaled(self.proj(attend(q, k, v).reshape(B, C, H, W)) + x_BCHW)
        return x_BCHW

    def _scaled(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW if self.skip_scale == 1 else x_BCHW * self.skip_scale


def positional_angles(c_noise_B: Tensor, half: int, divisor: int) -> Tensor:
    """Angles c f [B, half], with frequencies f_i = 10000^(-i / divisor), i < half."""
    exponents = torch.arange(half, dtype=torch.float32, device=c_noise_B.device) / divisor
    return c_noise_B.outer((1 / 10_000) ** exponents)


class PositionalEmbedding(nn.Module):
    """SongUNet's [sin(c f), cos(c f)], whose last frequency is exactly 1/10000."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, c_noise_B: Tensor) -> Tensor:
        angles = positional_angles(c_noise_B, self.dim // 2, self.dim // 2 - 1)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class FourierEmbedding(nn.Module):
    """[sin(2 pi c f), cos(2 pi c f)] with random frequencies f ~ N(0, scale^2), drawn at construction and
    stored as a buffer.
    """

    freqs: Tensor

    def __init__(self, dim: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(dim // 2) * scale)

    def forward(self, c_noise_B: Tensor) -> Tensor:
        angles = c_noise_B.outer(2 * math.pi * self.freqs)
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Angles reach hundreds: eight-bit frequencies would turn the embedding into noise.
        freqs = self.freqs
        super()._apply(fn, recurse)
        self.freqs = kept_wide(freqs, self.freqs)
        return self
