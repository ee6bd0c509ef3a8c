"""Layers of LSGM's NVAE (Vahdat & Kautz 2020), with the published parameter and buffer names.

Batch norms never update their statistics, and effective weights are computed in every forward pass. Shape
letters: B batch, C channels, H W height and width, Z latent channels of one group.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Resample = Literal["up", "down"] | None
"""Resampling: None keeps the side, "up" doubles and "down" halves it."""

RESIDUAL_SCALE = 0.1
NORM_EPSILON = 1e-5
"""Added to a weight's norm before dividing by it."""


class WeightNormConv2d(nn.Conv2d):
    """Convolution with weight exp(log_weight_norm) * weight / (|weight| + 1e-5), the norm per output channel.

    Padding keeps the side.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(
            channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=bias
        )
        self.log_weight_norm = nn.Parameter(_norm(self.weight.detach()).log())

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self._normalised(self.weight), self.bias)

    def _normalised(self, weight: Tensor) -> Tensor:
        return weight * (self.log_weight_norm.exp() / (_norm(weight) + NORM_EPSILON))


class MaskedConv2d(WeightNormConv2d):
    """Causal `WeightNormConv2d`: an output depends only on preceding inputs, in raster order of the pixels
    and, within a pixel, in order of the variables.

    The smaller of the two channel counts is the number of variables; the channels of the other side form
    equal runs, one per variable. The mask is not stored.

    Args:
        strict: exclude the output's own pixel and variable too.
        mirror: reverse the order of the pixels, but not of the variables.
    """

    mask: Tensor

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: int,
        *,
        strict: bool,
        mirror: bool,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__(channels, out_channels, kernel, groups=groups, bias=bias)
        # Offsets of the input from the output, in pixels and, within a pixel, in variables.
        pixel = torch.arange(kernel**2) - kernel**2 // 2
        num_variables = min(channels, out_channels)
        written = torch.arange(out_channels) * num_variables // out_channels
        # In a depthwise convolution, each output channel reads the channel with its own number.
        read = torch.arange(channels) * num_variables // channels if groups == 1 else written[:, None]
        variable = (read - written[:, None])[..., None]
        if mirror:
            pixel = -pixel
        mask = (pixel < 0) | ((pixel == 0) & (variable < (0 if strict else 1)))
        self.register_buffer("mask", mask.reshape(self.weight.shape).to(self.weight.dtype), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self._normalised(self.weight * self.mask), self.bias)


class PlainConv2d(nn.Conv2d):
    """Convolution without bias and weight norm; the original stores its weight under two names, `weight` and
    `weight_normalized`.
    """

    def __init__(self, channels: int, out_channels: int, kernel: int, *, groups: int = 1) -> None:
        super().__init__(channels, out_channels, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.weight_normalized = self.weight


class BatchNorm(nn.BatchNorm2d):
    """Batch norm by the stored statistics, or by the batch's statistics without updating the stored ones,
    independent of the module's mode.
    """

    batch_statistics = False

    def forward(self, input: Tensor) -> Tensor:
        if self.batch_statistics:
            return F.batch_norm(input, None, None, self.weight, self.bias, training=True, eps=self.eps)
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class BatchNormSwish(BatchNorm):
    """`BatchNorm`, then x * sigmoid(x)."""

    def forward(self, input: Tensor) -> Tensor:
        return F.silu(super().forward(input))


class BNSwishConv(nn.Module):
    """Batch norm and swish, nearest-neighbour doubling for "up", then a weight-normalised 3x3 convolution,
    with stride 2 for "down"."""

    def __init__(self, channels: int, out_channels: int, resample: Resample) -> None:
        super().__init__()
        self.up = resample == "up"
        self.bn_act = BatchNormSwish(channels)
        self.conv_0 = WeightNormConv2d(channels, out_channels, 3, stride=2 if resample == "down" else 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h = self.bn_act(x_BCHW)
        return self.conv_0(F.interpolate(h, scale_factor=2, mode="nearest") if self.up else h)


class MBConv(nn.Module):
    """Inverted bottleneck: doubling for "up", widening by `expansion`, a depthwise 5x5 convolution,
    narrowing, with batch norms in between.
    """

    def __init__(self, channels: int, out_channels: int, resample: Resample, expansion: int) -> None:
        super().__init__()
        if resample == "down":
            raise ValueError("expected resample None or 'up', since only decoders have MBConv, found 'down'")
        wide = expansion * channels
        layers: list[nn.Module] = [nn.Upsample(scale_factor=2, mode="nearest")] if resample == "up" else []
        layers += [nn.ModuleDict({"bn": BatchNorm(channels)})]
        layers += [
            nn.ModuleDict({"conv": nn.Sequential(PlainConv2d(channels, wide, 1), BatchNormSwish(wide))})
        ]
        layers += [
            nn.ModuleDict(
                {"conv": nn.Sequential(PlainConv2d(wide, wide, 5, groups=wide), BatchNormSwish(wide))}
            )
        ]
        layers += [PlainConv2d(wide, out_channels, 1), nn.ModuleDict({"bn": BatchNorm(out_channels)})]
        self.conv = nn.ModuleList(layers)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        for layer in self.conv:
            # The dictionaries hold one layer each, only for the parameter names.
            for part in layer.values() if isinstance(layer, nn.ModuleDict) else [layer]:
                x_BCHW = part(x_BCHW)
        return x_BCHW


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate in (0, 1) that a small network computes from the means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 4)
        self.se = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW * self.se(x_BCHW.mean(dim=(2, 3)))[:, :, None, None]


class DownSkip(nn.Module):
    """Halve the side: swish, then four 1x1 convolutions with stride 2, one per pixel of a 2x2 block,
    concatenated along channels.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        quarter = out_channels // 4
        self.conv_1 = WeightNormConv2d(channels, quarter, 1, stride=2)
        self.conv_2 = WeightNormConv2d(channels, quarter, 1, stride=2)
        self.conv_3 = WeightNormConv2d(channels, quarter, 1, stride=2)
        self.conv_4 = WeightNormConv2d(channels, out_channels - 3 * quarter, 1, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x = F.silu(x_BCHW)
        parts = [
            self.conv_1(x),
            self.conv_2(x[:, :, 1:, 1:]),
            self.conv_3(x[:, :, :, 1:]),
            self.conv_4(x[:, :, 1:, :]),
        ]
        return torch.cat(parts, dim=1)


class Cell(nn.Module):
    """Residual cell: skip(x) + 0.1 * SE(ops(x)). The first op and the skip change side and width.

    Args:
        op: "res_bnswish", two of `BNSwishConv`, or the expansion of one `MBConv`.
        use_se: include `SqueezeExcite`.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        op: Literal["res_bnswish"] | int,
        resample: Resample,
        use_se: bool,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.skip = _skip(channels, out_channels, resample)
        if op == "res_bnswish":
            ops = [
                BNSwishConv(channels, out_channels, resample),
                BNSwishConv(out_channels, out_channels, None),
            ]
        else:
            ops = [MBConv(channels, out_channels, resample, op)]
        self._ops = nn.ModuleList(ops)
        self.se = SqueezeExcite(out_channels) if use_se else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h = x_BCHW
        for op in self._ops:
            h = op(h)
        return self.skip(x_BCHW) + RESIDUAL_SCALE * self.se(h)


class EncoderCombiner(nn.Module):
    """The encoder's features plus a 1x1 convolution of the decoder's: the input of a group's posterior."""

    def __init__(self, decoder_channels: int, encoder_channels: int) -> None:
        super().__init__()
        self.conv = WeightNormConv2d(decoder_channels, encoder_channels, 1)

    def forward(self, encoder_BCHW: Tensor, decoder_BCHW: Tensor) -> Tensor:
        return encoder_BCHW + self.conv(decoder_BCHW)


class DecoderCombiner(nn.Module):
    """A 1x1 convolution of the decoder's features and one group's latent variables."""

    def __init__(self, channels: int, latent_channels: int) -> None:
        super().__init__()
        self.conv = WeightNormConv2d(channels + latent_channels, channels, 1)

    def forward(self, x_BCHW: Tensor, z_BZHW: Tensor) -> Tensor:
        return self.conv(torch.cat([x_BCHW, z_BZHW], dim=1))


class FlowCell(nn.Module):
    """Autoregressive shift z - mu(z), with mu a function of the preceding variables in the order of
    `MaskedConv2d`.

    The map preserves volume.
    """

    def __init__(self, latent_channels: int, *, mirror: bool) -> None:
        super().__init__()
        wide = 6 * latent_channels
        first = MaskedConv2d(latent_channels, wide, 3, strict=True, mirror=mirror)
        depthwise = MaskedConv2d(wide, wide, 5, strict=False, mirror=mirror, groups=wide)
        self.conv = nn.ModuleDict({"convz": nn.Sequential(first, nn.ELU(), depthwise, nn.ELU())})
        self.mu = nn.ModuleDict(
            {"conv_0": MaskedConv2d(wide, latent_channels, 1, strict=False, mirror=mirror, bias=True)}
        )

    def forward(self, z_BZHW: Tensor) -> Tensor:
        return z_BZHW - self.mu["conv_0"](self.conv["convz"](z_BZHW))


class FlowPair(nn.Module):
    """Two flow cells, the second with the pixels in reverse order."""

    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        self.cell1 = FlowCell(latent_channels, mirror=False)
        self.cell2 = FlowCell(latent_channels, mirror=True)

    def forward(self, z_BZHW: Tensor) -> Tensor:
        return self.cell2(self.cell1(z_BZHW))


def soft_clamp(x: Tensor, limit: float) -> Tensor:
    """Squash `x` smoothly into (-limit, limit): limit * tanh(x / limit)."""
    return limit * torch.tanh(x / limit)


def _norm(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight, dim=(1, 2, 3), keepdim=True)


def _skip(channels: int, out_channels: int, resample: Resample) -> nn.Module:
    if resample == "down":
        return DownSkip(channels, out_channels)
    if resample == "up":
        doubled = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        return nn.Sequential(doubled, WeightNormConv2d(channels, out_channels, 1, bias=False))
    return nn.Identity()
