"""The U-Net of DDPM (Ho et al. 2020) in the form of its PyTorch checkpoints (SDEdit's CelebA-HQ and LSUN
models). Group norms, softmaxes and the time embedding are computed in float32 even in half precision.

Shape letters: B batch, C channels, H W height and width, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgflow.networks.attention import attend
from dgflow.networks.ncsnpp.layers import conv, sinusoid
from dgflow.networks.precision import group_norm, wide_linear


class DDPMUNetModule(nn.Module):
    """U-Net of (image, step), without classes. The defaults are those of the 256-pixel networks.

    Args:
        image_size: side in pixels, divisible by 2 for every level but the first.
        in_channels: channels of input and output.
        ch: base width; the embedding is four times as wide.
        ch_mult: width of each level as a multiple of `ch`; every width a multiple of 32.
        num_res_blocks: residual blocks per level, one more in the decoder.
        attn_resolutions: sides in pixels with attention after every block.
        dropout: probability of dropout, in training only.
        resamp_with_conv: resample with convolutions; otherwise by 2x2 means and nearest neighbours only.

    Raises ValueError for widths or sides that are not divisible.
    """

    def __init__(
        self,
        *,
        image_size: int = 256,
        in_channels: int = 3,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 1, 2, 2, 4, 4),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.0,
        resamp_with_conv: bool = True,
    ) -> None:
        super().__init__()
        widths, E = [ch * mult for mult in ch_mult], 4 * ch
        if any(width % 32 for width in [ch, *widths]) or image_size % 2 ** (len(widths) - 1):
            raise ValueError(
                f"expected widths that are multiples of 32 and a side to be halved {len(widths) - 1} "
                f"times, found {widths}, {image_size}"
            )
        self.image_size, self.in_channels, self.ch = image_size, in_channels, ch
        self.temb = nn.ModuleDict({"dense": nn.ModuleList([nn.Linear(ch, E), nn.Linear(E, E)])})
        self.conv_in = conv(in_channels, ch)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, skips = ch, [ch]
        for level, next_width in enumerate(widths):
            inputs = [width, *[next_width] * (num_res_blocks - 1)]
            self.down.append(Level(inputs, next_width, E, image_size >> level in attn_resolutions, dropout))
            width = next_width
            skips += [width] * num_res_blocks
            if level < len(widths) - 1:
                self.down[-1].downsample = Downsample(width) if resamp_with_conv else nn.AvgPool2d(2)
                skips.append(width)
        self.mid = nn.ModuleDict(
            {
                "block_1": ResBlock(width, width, E, dropout),
                "attn_1": Attention(width),
                "block_2": ResBlock(width, width, E, dropout),
            }
        )
        for level, next_width in reversed(list(enumerate(widths))):
            inputs = []
            for _ in range(num_res_blocks + 1):
                inputs.append(width + skips.pop())
                width = next_width
            self.up.insert(
                0, Level(inputs, next_width, E, image_size >> level in attn_resolutions, dropout)
            )  # level 0 is the finest
            if level > 0:
                self.up[0].upsample = Upsample(width) if resamp_with_conv else nn.Upsample(scale_factor=2)
        self.norm_out, self.conv_out = GroupNorm(width), conv(width, in_channels)

    def forward(self, x_BCHW: Tensor, timesteps_B: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Predicted noise, shaped like `x_BCHW`, for steps [B] of the schedule; step 0 is the cleanest.

        There are no classes: labels are ignored.
        """
        del class_labels
        dense = self.temb["dense"]
        assert isinstance(dense, nn.ModuleList)
        first, second = dense
        assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
        emb = wide_linear(second, F.silu(wide_linear(first, sinusoid(timesteps_B, self.ch)))).to(
            self.conv_in.weight.dtype
        )
        h = self.conv_in(x_BCHW.to(self.conv_in.weight.dtype))
        skips = [h]
        for level in self.down:
            assert isinstance(level, Level)
            for index in range(len(level.block)):
                h = level(h, emb, index)
                skips.append(h)
            if level.downsample is not None:
                h = level.downsample(h)
                skips.append(h)
        h = self.mid["block_2"](self.mid["attn_1"](self.mid["block_1"](h, emb)), emb)
        for level in reversed(self.up):
            assert isinstance(level, Level)
            for index in range(len(level.block)):
                h = level(torch.cat([h, skips.pop()], dim=1), emb, index)
            if level.upsample is not None:
                h = level.upsample(h)
        return self.conv_out(F.silu(self.norm_out(h))).to(x_BCHW.dtype)


class Level(nn.Module):
    """The blocks of one side, each with its optional attention, and the resampling to the next side."""

    def __init__(
        self, inputs: Sequence[int], width: int, emb_channels: int, attention: bool, dropout: float
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList([ResBlock(channels, width, emb_channels, dropout) for channels in inputs])
        self.attn = nn.ModuleList([Attention(width) for _ in inputs] if attention else [])
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor, index: int) -> Tensor:
        h = self.block[index](x_BCHW, emb_BE)
        return self.attn[index](h) if len(self.attn) else h


class GroupNorm(nn.GroupNorm):
    """Group norm with 32 groups, eps 1e-6, computed in at least float32."""

    def __init__(self, channels: int) -> None:
        super().__init__(32, channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class ResBlock(nn.Module):
    """Residual block: norm, SiLU and convolution, twice, with the embedding added in between; plus a skip."""

    def __init__(self, channels: int, width: int, emb_channels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm1, self.conv1 = GroupNorm(channels), conv(channels, width)
        self.temb_proj = nn.Linear(emb_channels, width)
        self.norm2, self.conv2 = GroupNorm(width), conv(width, width)
        self.nin_shortcut = conv(channels, width, 1) if channels != width else None

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x_BCHW))) + self.temb_proj(F.silu(emb_BE))[:, :, None, None]
        h = self.conv2(F.dropout(F.silu(self.norm2(h)), self.dropout, self.training))
        return h + (x_BCHW if self.nin_shortcut is None else self.nin_shortcut(x_BCHW))


class Attention(nn.Module):
    """Single-head self-attention over all pixels, with a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels)
        self.q, self.k, self.v, self.proj_out = (conv(channels, channels, 1) for _ in range(4))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h = self.norm(x_BCHW)
        q, k, v = (layer(h).flatten(2)[:, None] for layer in (self.q, self.k, self.v))
        return x_BCHW + self.proj_out(attend(q, k, v).reshape(x_BCHW.shape))


class Downsample(nn.Module):
    """Halve the side by a 3x3 convolution with stride 2, zero-padded on the right and below."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels, stride=2, padding=0)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.conv(F.pad(x_BCHW, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the side by nearest neighbours, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.conv(F.interpolate(x_BCHW, scale_factor=2, mode="nearest"))
