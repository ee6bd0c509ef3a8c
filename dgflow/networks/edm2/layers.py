"""Magnitude-preserving layers of EDM2 (Karras et al. 2024, arXiv 2312.02696), with the published parameter
names: each layer maps inputs of unit magnitude to outputs of unit magnitude, by construction rather than by
group norms.

Magnitudes, noise embeddings and their frequencies are computed in at least float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgflow.networks.precision import kept_wide, wide

EPS = 1e-4
"""Added to every magnitude before dividing by it."""
SILU_MAGNITUDE = 0.596
"""Root mean square of silu(z) for a unit normal z, rounded as published."""


def magnitude(values: Tensor, dims: Sequence[int]) -> Tensor:
    """Root mean square over `dims`, which are kept, plus EPS; in at least float32."""
    norm = torch.linalg.vector_norm(values, dim=list(dims), keepdim=True, dtype=wide(values.dtype))
    return EPS + norm * math.sqrt(norm.numel() / values.numel())


def normalized(values: Tensor, dims: Sequence[int]) -> Tensor:
    """`values` divided by their magnitude over `dims`, in the dtype of `values`."""
    return values / magnitude(values, dims).to(values.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """silu(x), rescaled to unit magnitude for a unit normal x."""
    return F.silu(x) / SILU_MAGNITUDE


def mp_sum(a: Tensor, b: Tensor, balance: float) -> Tensor:
    """(1 - t) a + t b with t = `balance`, rescaled to preserve magnitude for uncorrelated a and b."""
    return a.lerp(b, balance) / math.hypot(1 - balance, balance)


def mp_cat(a_BCHW: Tensor, b_BCHW: Tensor, balance: float) -> Tensor:
    """Concatenate along the channels; the norms of a and b get the ratio 1 - t to t with t = `balance`, for
    any numbers of channels.
    """
    a_channels, b_channels = a_BCHW.shape[1], b_BCHW.shape[1]
    scale = math.sqrt(a_channels + b_channels) / math.hypot(1 - balance, balance)
    a_weight = scale * (1 - balance) / math.sqrt(a_channels)
    return torch.cat([a_weight * a_BCHW, scale * balance / math.sqrt(b_channels) * b_BCHW], dim=1)


def resampled(x_BCHW: Tensor, direction: Literal["up", "down"], taps: Sequence[float]) -> Tensor:
    """Double or halve the side of images by a separable filter that preserves the mean.

    Args:
        taps: taps of the filter, with any sum; [1, 1] is nearest neighbour up and 2x2 means down.
    """
    if list(taps) == [1, 1]:  # equal to the code below, several times faster on a CPU
        if direction == "up":
            return F.interpolate(x_BCHW, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x_BCHW, 2)
    channels, padding = x_BCHW.shape[1], (len(taps) - 1) // 2
    row = x_BCHW.new_tensor(taps) / sum(taps)
    kernel = row.outer(row).expand(channels, 1, -1, -1)
    if direction == "down":
        return F.conv2d(x_BCHW, kernel, stride=2, padding=padding, groups=channels)
    # 4: keeps the mean, since upsampling by two inserts zeros
    return F.conv_transpose2d(x_BCHW, 4 * kernel, stride=2, padding=padding, groups=channels)


class MPConv(nn.Module):
    """Convolution (without `kernel`, linear layer) with weights of unit magnitude and no bias.

    In training mode the stored weights are normalised to unit magnitude before each use ("forced weight
    normalisation"), so that the learning rate keeps its meaning.

    Args:
        kernel: sides of the kernel, odd; the image size is preserved.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *kernel))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        weight = self.weight.to(wide(self.weight.dtype))
        dims = range(1, weight.ndim)
        if self.training:
            with torch.no_grad():
                self.weight.copy_(normalized(weight, dims))
            weight = self.weight.to(weight.dtype)
        scale = gain / (math.sqrt(weight[0].numel()) * magnitude(weight, dims))
        weight = (weight * scale).to(x.dtype)
        if weight.ndim == 2:
            return F.linear(x, weight)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


class MPFourier(nn.Module):
    """sqrt(2) cos(x f + p), with frequencies f ~ 2 pi N(0, 1) and phases p ~ 2 pi U(0, 1), drawn at
    construction and stored as buffers."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, x_B: Tensor) -> Tensor:
        x_B = x_B.to(wide(x_B.dtype))
        angles = x_B.outer(self.freqs.to(x_B.dtype)) + self.phases.to(x_B.dtype)
        return math.sqrt(2) * angles.cos()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Eight-bit frequencies and phases would be another embedding than in training.
        freqs, phases = self.freqs, self.phases
        super()._apply(fn, recurse)
        self.freqs, self.phases = kept_wide(freqs, self.freqs), kept_wide(phases, self.phases)
        return self
