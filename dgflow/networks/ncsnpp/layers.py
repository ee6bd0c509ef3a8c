"""Layers of NCSN++ and DDPM++ as in score_sde (Song et al. 2021), with the published parameter names. Group
norms, softmaxes and everything that depends on time alone are computed in float32 even in half precision.

Shape letters: B batch, C channels, H W height and width, E embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgflow.networks import precision
from dgflow.networks.attention import attend

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)

INIT_SMALL = 1e-5
"""Scale of the initial weights of a branch's last layer: the branch starts close to zero."""
FIR_TAPS = (1.0, 3.0, 3.0, 1.0)
"""The separable low-pass filter of published networks with `fir`; () means no filter."""
SKIP_RESCALE = math.sqrt(0.5)
"""Factor on the sum of two branches in published networks, which preserves its scale."""


def conv(
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    padding: int | None = None,
    init: float = 1.0,
) -> nn.Conv2d:
    """Convolution that keeps the side unless `padding` is given; Xavier-uniform weights times `init`."""
    layer = nn.Conv2d(
        in_channels, out_channels, kernel, stride=stride, padding=kernel // 2 if padding is None else padding
    )
    return _initialised(layer, init)


def linear(in_features: int, out_features: int) -> nn.Linear:
    """Linear layer, Xavier-uniform weights, bias zero."""
    return _initialised(nn.Linear(in_features, out_features))


class GroupNorm(nn.GroupNorm):
    """Group norm with at most 32 groups of at least 4 channels, eps 1e-6, computed in at least float32."""

    def __init__(self, channels: int) -> None:
        super().__init__(max(1, min(32, channels // 4)), channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        return precision.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


def sinusoid(t_B: Tensor, dim: int) -> Tensor:
    """[sin(t f), cos(t f)] in at least float32, [B, dim]: f_i = 10000^(-i / (half - 1)), i < half = dim // 2;
    an odd dim ends in a zero.
    """
    half = dim // 2
    t_B = t_B.to(precision.wide(t_B.dtype) if t_B.is_floating_point() else torch.float32)
    freqs = torch.exp(
        torch.arange(half, dtype=t_B.dtype, device=t_B.device) * (-math.log(10_000) / (half - 1))
    )
    angles = t_B[:, None] * freqs
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, dim % 2))


class FourierFeatures(nn.Module):
    """[sin(2 pi t f), cos(2 pi t f)] of numbers t [B] at random frequencies f ~ N(0, scale^2), which are
    stored and never trained.

    Args:
        name, shape: name and shape of the stored parameter in published files.
        angular: multiply by 2 pi before the time rather than after it, as LSGM does: angles of hundreds of
            radians are rounded differently.
    """

    def __init__(self, name: str, shape: tuple[int, ...], scale: float, angular: bool = False) -> None:
        super().__init__()
        self.name, self.angular = name, angular
        self.register_parameter(name, nn.Parameter(torch.randn(shape) * scale, requires_grad=False))

    def forward(self, t_B: Tensor) -> Tensor:
        """Features [B, 2 F] for F frequencies, in at least float32."""
        freqs = self.get_parameter(self.name).flatten()
        t_B1, turn = t_B.to(precision.wide(freqs.dtype))[:, None], 2 * math.pi
        angles = t_B1 * (turn * freqs) if self.angular else t_B1 * freqs * turn
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FourierFeatures:
        # Rounding the frequencies to half precision would change the time that the network receives.
        before = self.get_parameter(self.name).data
        super()._apply(fn, recurse)
        parameter = self.get_parameter(self.name)
        parameter.data = precision.kept_wide(before, parameter.data)
        return self


class Resample(nn.Module):
    """Double ("up") or halve ("down") the side: by the FIR filter with zero borders, or by nearest neighbours
    and 2x2 means.
    """

    taps: Tensor

    def __init__(self, direction: Literal["up", "down"], fir: Sequence[float]) -> None:
        super().__init__()
        self.direction, self.fir, self.padding = direction, bool(fir), len(fir) // 2 - 1
        if fir:
            # 4: keeps the mean, since upsampling by two inserts zeros.
            taps = 4 * _taps(fir) if direction == "up" else _taps(fir).flip(2, 3)
            self.register_buffer("taps", taps, persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if not self.fir:
            return (
                F.interpolate(x_BCHW, scale_factor=2, mode="nearest")
                if self.direction == "up"
                else F.avg_pool2d(x_BCHW, 2)
            )
        C = x_BCHW.shape[1]
        taps = self.taps.expand(C, -1, -1, -1)
        if self.direction == "up":
            return F.conv_transpose2d(x_BCHW, taps, stride=2, padding=self.padding, groups=C)
        return F.conv2d(x_BCHW, taps, stride=2, padding=self.padding, groups=C)


class ResBlock(nn.Module):
    """BigGAN's residual block: the time embedding is added before the second norm, resampling comes before
    the first convolution.

    Args:
        resample: resample both branches; None for no change.
        dropout: probability of dropout before the second convolution, in training only.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        resample: Literal["up", "down"] | None = None,
        fir: Sequence[float] = (),
        dropout: float = 0.0,
        scale: float = SKIP_RESCALE,
    ) -> None:
        super().__init__()
        self.dropout, self.scale = dropout, scale
        self.resample = nn.Identity() if resample is None else Resample(resample, fir)
        self.GroupNorm_0 = GroupNorm(in_channels)
        self.Conv_0 = conv(in_channels, out_channels)
        self.Dense_0 = linear(emb_channels, out_channels)
        self.GroupNorm_1 = GroupNorm(out_channels)
        self.Conv_1 = conv(out_channels, out_channels, init=INIT_SMALL)
        self.Conv_2 = (
            conv(in_channels, out_channels, 1)
            if in_channels != out_channels or resample is not None
            else nn.Identity()
        )

    def forward(self, x_BCHW: Tensor, active_emb_BE: Tensor) -> Tensor:
        """Apply the block; `active_emb_BE` is the time embedding after SiLU, [B, E] or [1, E]."""
        h = self.Conv_0(self.resample(F.silu(self.GroupNorm_0(x_BCHW))))
        h = h + precision.wide_linear(self.Dense_0, active_emb_BE).to(h.dtype)[:, :, None, None]
        h = self.Conv_1(F.dropout(F.silu(self.GroupNorm_1(h)), self.dropout, self.training))
        return (self.Conv_2(self.resample(x_BCHW)) + h) * self.scale


class NIN(nn.Module):
    """A 1x1 convolution whose matrix `W` is stored as [in, out]."""

    def __init__(self, channels: int, init: float = 1.0) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(channels, channels))
        self.b = nn.Parameter(torch.zeros(channels))
        nn.init.xavier_uniform_(self.W, gain=init)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.conv2d(x_BCHW, self.W.T[..., None, None], self.b)


class Attention(nn.Module):
    """Single-head self-attention over all pixels."""

    def __init__(self, channels: int, scale: float = SKIP_RESCALE) -> None:
        super().__init__()
        self.scale = scale
        self.GroupNorm_0 = GroupNorm(channels)
        self.NIN_0, self.NIN_1, self.NIN_2 = NIN(channels), NIN(channels), NIN(channels)
        self.NIN_3 = NIN(channels, init=INIT_SMALL)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h = self.GroupNorm_0(x_BCHW)
        q, k, v = (layer(h).flatten(2)[:, None] for layer in (self.NIN_0, self.NIN_1, self.NIN_2))
        return (x_BCHW + self.NIN_3(attend(q, k, v).reshape(x_BCHW.shape))) * self.scale


class ResidualInput(nn.Module):
    """The next smaller image of the input pyramid, by a learned convolution with stride 2 (after the FIR
    filter, if any).

    Its mean with the main branch is both the new main branch and the new image.
    """

    taps: Tensor

    def __init__(
        self, image_channels: int, channels: int, fir: Sequence[float], scale: float = SKIP_RESCALE
    ) -> None:
        super().__init__()
        self.fir, self.padding, self.scale = bool(fir), len(fir) // 2, scale
        layer = conv(image_channels, channels, stride=2, padding=0)
        if fir:
            self.Conv2d_0 = layer
            self.register_buffer("taps", _taps(fir).flip(2, 3), persistent=False)
        else:
            self.Conv_0 = layer

    def forward(self, image_BCHW: Tensor, h_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(image, h) of half the side, from an image of the whole one."""
        if self.fir:
            C = image_BCHW.shape[1]
            taps = self.taps.expand(C, -1, -1, -1)
            down = self.Conv2d_0(F.conv2d(image_BCHW, taps, padding=self.padding, groups=C))
        else:
            down = self.Conv_0(F.pad(image_BCHW, (0, 1, 0, 1)))
        h = (down + h_BCHW) * self.scale
        return h, h


class SkipInput(nn.Module):
    """The next smaller image of the input pyramid, which joins the main branch through a 1x1 convolution.

    "sum" adds the image, "cat" prepends it to the channels of the main branch.
    """

    def __init__(
        self, image_channels: int, channels: int, fir: Sequence[float], combine: Literal["sum", "cat"]
    ) -> None:
        super().__init__()
        self.combine = combine
        self.resample = Resample("down", fir)
        self.Conv_0 = conv(image_channels, channels, 1)

    def forward(self, image_BCHW: Tensor, h_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(image, h) of half the side, from an image of the whole one."""
        image = self.resample(image_BCHW)
        joined = self.Conv_0(image)
        return image, joined + h_BCHW if self.combine == "sum" else torch.cat([joined, h_BCHW], dim=1)


class ResidualOutput(nn.Module):
    """The next larger image of the output pyramid: nearest-neighbour doubling, then a learned convolution.

    Its mean with the main branch is both the new main branch and the new image.
    """

    def __init__(self, image_channels: int, channels: int, scale: float = SKIP_RESCALE) -> None:
        super().__init__()
        self.scale, self.Conv_0 = scale, conv(image_channels, channels)

    def forward(self, image_BCHW: Tensor, h_BCHW: Tensor) -> Tensor:
        up = self.Conv_0(F.interpolate(image_BCHW, scale_factor=2, mode="nearest"))
        return (up + h_BCHW) * self.scale


class SkipOutput(nn.Conv2d):
    """A level's contribution to the image, added to the image of the level below at twice its side."""

    def __init__(self, channels: int, image_channels: int, fir: Sequence[float]) -> None:
        super().__init__(channels, image_channels, 3, padding=1)
        _initialised(self, INIT_SMALL)
        self.resample = Resample("up", fir)

    def forward(self, input: Tensor, image_BCHW: Tensor | None = None) -> Tensor:
        head = super().forward(input)
        return head if image_BCHW is None else self.resample(image_BCHW) + head


def _taps(fir: Sequence[float]) -> Tensor:
    taps = torch.tensor(fir)
    return (taps.outer(taps) / taps.sum() ** 2)[None, None]


def _initialised(layer: Layer, gain: float = 1.0) -> Layer:
    nn.init.xavier_uniform_(layer.weight, gain=gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
