"""EDM2's U-Net (Karras et al. 2024, configuration G): magnitude-preserving, without biases or group norms,
with the published names. `preconditioner` turns it into a denoiser.

Shape letters: B batch, C channels, H W height and width, E embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgflow.networks.attention import attend
from dgflow.networks.edm2.layers import MPConv, MPFourier, mp_cat, mp_silu, mp_sum, normalized, resampled


class Block(nn.Module):
    """Residual block of the encoder or the decoder, then optional multi-head attention.

    An encoder block normalises its input pixel by pixel; a decoder block does not. The embedding scales the
    values between the two convolutions.

    Args:
        flavor: "enc" or "dec".
        resample: double or halve the side first; None for no change.
        attention: attention after the residual part, with `out_channels // channels_per_head` heads; none if
            that is 0.
        dropout: probability of dropout before the second convolution, in training only.
        res_balance, attn_balance: weight of the branch in each of the two sums.
        clip_act: bound on the magnitude of the result; None for no bound.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        flavor: Literal["enc", "dec"],
        resample: Literal["up", "down"] | None = None,
        resample_filter: Sequence[float] = (1, 1),
        attention: bool = False,
        channels_per_head: int = 64,
        dropout: float = 0.0,
        res_balance: float = 0.3,
        attn_balance: float = 0.3,
        clip_act: float | None = 256.0,
    ) -> None:
        super().__init__()
        self.resample: Literal["up", "down"] | None = resample
        self.flavor, self.resample_filter = flavor, tuple(resample_filter)
        self.num_heads = out_channels // channels_per_head if attention else 0
        self.dropout, self.clip_act = dropout, clip_act
        self.res_balance, self.attn_balance = res_balance, attn_balance
        if self.num_heads and out_channels % self.num_heads:
            raise ValueError(f"{out_channels} channels cannot be split into {self.num_heads} attention heads")
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MPConv(out_channels if flavor == "enc" else in_channels, out_channels, (3, 3))
        self.emb_linear = MPConv(emb_channels, out_channels)
        self.conv_res1 = MPConv(out_channels, out_channels, (3, 3))
        self.conv_skip = MPConv(in_channels, out_channels, (1, 1)) if in_channels != out_channels else None
        self.attn_qkv = MPConv(out_channels, 3 * out_channels, (1, 1)) if self.num_heads else None
        self.attn_proj = MPConv(out_channels, out_channels, (1, 1)) if self.num_heads else None

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor) -> Tensor:
        x = x_BCHW if self.resample is None else resampled(x_BCHW, self.resample, self.resample_filter)
        if self.flavor == "enc":
            x = normalized(self._skipped(x), [1])
        scale = self.emb_linear(emb_BE, gain=self.emb_gain)[:, :, None, None] + 1
        y = mp_silu(self.conv_res0(mp_silu(x)) * scale.to(x.dtype))
        y = self.conv_res1(F.dropout(y, self.dropout, self.training))
        x = mp_sum(self._skipped(x) if self.flavor == "dec" else x, y, self.res_balance)
        if self.attn_qkv is not None and self.attn_proj is not None:
            B, C, H, W = x.shape
            # Row order of qkv: head; channel; q, k or v.
            qkv = self.attn_qkv(x).flatten(2).reshape(B, self.num_heads, C // self.num_heads, 3, H * W)
            attended = attend(*normalized(qkv, [2]).unbind(3)).reshape(B, C, H, W)
            x = mp_sum(x, self.attn_proj(attended), self.attn_balance)
        return x if self.clip_act is None else x.clamp(-self.clip_act, self.clip_act)

    def _skipped(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW if self.conv_skip is None else self.conv_skip(x_BCHW)


class UNetModule(nn.Module):
    """U-Net of (image, noise condition, labels). The defaults are EDM2-S.

    Args:
        img_resolution: side of the image in pixels, divisible by 2 for every level but the first.
        img_channels: channels of input and output.
        label_dim: number of classes; 0 for an unconditional network.
        model_channels: base width.
        channel_mult: width of each level as a multiple of `model_channels`.
        channel_mult_noise, channel_mult_emb: width multiples of the noise embedding and of the embedding;
            None for the first level's and for the largest.
        num_blocks: residual blocks per level (one more in the decoder).
        attn_resolutions: sides in pixels with attention; the decoder always begins with attention.
        label_balance: weight of the labels in the embedding.
        concat_balance: weight of the skip in each decoder block.
        block: the other arguments of `Block`.

    Raises:
        ValueError: the levels cannot halve the resolution.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        *,
        model_channels: int = 192,
        channel_mult: Sequence[float] = (1, 2, 3, 4),
        channel_mult_noise: float | None = None,
        channel_mult_emb: float | None = None,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        **block: Any,
    ) -> None:
        super().__init__()
        if img_resolution % 2 ** (len(channel_mult) - 1):
            raise ValueError(
                f"img_resolution {img_resolution} cannot be halved {len(channel_mult) - 1} times "
                "(channel_mult has that many + 1)"
            )
        self.label_balance, self.concat_balance = label_balance, concat_balance
        widths = [int(model_channels * mult) for mult in channel_mult]
        noise = widths[0] if channel_mult_noise is None else int(model_channels * channel_mult_noise)
        E = max(widths) if channel_mult_emb is None else int(model_channels * channel_mult_emb)
        sides = [img_resolution >> level for level in range(len(widths))]

        self.out_gain = nn.Parameter(torch.zeros([]))
        self.emb_fourier = MPFourier(noise)
        self.emb_noise = MPConv(noise, E)
        self.emb_label = MPConv(label_dim, E) if label_dim else None

        encoder = partial(Block, emb_channels=E, flavor="enc", **block)
        width = img_channels + 1  # a channel of ones replaces biases
        skips = []
        self.enc = nn.ModuleDict()
        for side, next_width in zip(sides, widths, strict=True):
            if side == img_resolution:
                self.enc[f"{side}x{side}_conv"] = MPConv(width, next_width, (3, 3))
                width = next_width
            else:
                self.enc[f"{side}x{side}_down"] = encoder(width, width, resample="down")
            skips.append(width)
            for i in range(num_blocks):
                attends = side in attn_resolutions
                self.enc[f"{side}x{side}_block{i}"] = encoder(width, next_width, attention=attends)
                width = next_width
                skips.append(width)

        decoder = partial(Block, emb_channels=E, flavor="dec", **block)
        self.dec = nn.ModuleDict()
        for side, next_width in zip(reversed(sides), reversed(widths), strict=True):
            if side == sides[-1]:
                self.dec[f"{side}x{side}_in0"] = decoder(width, width, attention=True)
                self.dec[f"{side}x{side}_in1"] = decoder(width, width)
            else:
                self.dec[f"{side}x{side}_up"] = decoder(width, width, resample="up")
            for i in range(num_blocks + 1):
                attends = side in attn_resolutions
                self.dec[f"{side}x{side}_block{i}"] = decoder(
                    width + skips.pop(), next_width, attention=attends
                )
                width = next_width
        self.out_conv = MPConv(width, img_channels, (3, 3))

    def forward(self, x_BCHW: Tensor, c_noise_B: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Raw network output F [B, img_channels, H, W].

        Args:
            x_BCHW: image, scaled to unit variance by the preconditioner; cast to the dtype of the parameters,
                which the result has.
            c_noise_B: float32 noise condition [B] or [1].
            class_labels: one-hot (or zero) rows [B, label_dim] or [1, label_dim], for a conditional network.
        """
        dtype = self.out_conv.weight.dtype
        emb_BE = self._embedding(c_noise_B, class_labels).to(dtype)
        x = torch.cat([x_BCHW, torch.ones_like(x_BCHW[:, :1])], dim=1).to(dtype)
        skips = []
        for module in self.enc.values():
            x = module(x, emb_BE) if isinstance(module, Block) else module(x)
            skips.append(x)
        for name, module in self.dec.items():
            if "block" in name:
                x = mp_cat(x, skips.pop(), self.concat_balance)
            x = module(x, emb_BE)
        return self.out_conv(x, gain=self.out_gain)

    def _embedding(self, c_noise_B: Tensor, class_labels: Tensor | None) -> Tensor:
        emb = self.emb_noise(self.emb_fourier(c_noise_B))
        if self.emb_label is not None:
            if class_labels is None:
                raise ValueError("this network has classes and needs class_labels (zeros for none)")
            rows = class_labels * math.sqrt(class_labels.shape[1])
            emb = mp_sum(emb, self.emb_label(rows), self.label_balance)
        return mp_silu(emb)
