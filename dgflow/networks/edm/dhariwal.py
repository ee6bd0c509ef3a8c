"""EDM's form of the ADM U-Net (DhariwalUNet, Karras et al. 2022), with the published names and ADM's
initialisation. `preconditioners` turns it into a denoiser.

Shape letters: B batch, C channels, H W height and width, E embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgflow.networks.edm.layers import Conv2d, GroupNorm, UNetBlock, linear, positional_angles
from dgflow.networks.precision import wide_linear

HEAD_CHANNELS = 64
"""Channels per attention head. Narrower levels have no attention, as in the original."""


class DhariwalUNetModule(nn.Module):
    """U-Net of (image, noise condition, labels). The defaults are edm-imagenet-64x64-cond-adm, except for its
    1000 classes.

    Args:
        img_resolution: side of the image in pixels, divisible by 2 for every level but the first.
        img_channels: channels of the input.
        label_dim: number of classes; 0 for an unconditional network.
        augment_dim: width of the augmentation labels; 0 for none.
        out_channels: channels of the output; None for as many as the input; twice as many under
            `iDDPMPrecond`.
        model_channels: base width; the embedding is four times as wide.
        channel_mult: width of each level as a multiple of `model_channels`.
        num_blocks: residual blocks per level (one more in the decoder).
        attn_resolutions: sides in pixels at which every block has attention; the decoder always begins with
            attention.
        dropout: probability of dropout, in training only.

    Raises:
        ValueError: the levels cannot halve the resolution, or a width cannot be split into heads.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        *,
        out_channels: int | None = None,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
    ) -> None:
        super().__init__()
        if img_resolution % 2 ** (len(channel_mult) - 1):
            raise ValueError(
                f"img_resolution {img_resolution} cannot be halved {len(channel_mult) - 1} times "
                "(channel_mult has that many + 1)"
            )
        self.img_resolution, self.img_channels, self.label_dim, self.augment_dim = (
            img_resolution,
            img_channels,
            label_dim,
            augment_dim,
        )
        self.model_channels, self.num_blocks = model_channels, num_blocks
        self.sides = [img_resolution >> level for level in range(len(channel_mult))]
        widths = [model_channels * mult for mult in channel_mult]
        E = 4 * model_channels

        self.map_augment = linear(augment_dim, model_channels, bias=False) if augment_dim else None
        self.map_layer0, self.map_layer1 = linear(model_channels, E), linear(E, E)
        self.map_label = linear(label_dim, E, bias=False) if label_dim else None

        def block(
            width_in: int,
            width_out: int,
            attention: bool = False,
            resample: Literal["up", "down"] | None = None,
        ) -> UNetBlock:
            heads = width_out // HEAD_CHANNELS if attention else 0
            return UNetBlock(width_in, width_out, E, resample=resample, num_heads=heads, dropout=dropout)

        self.enc = nn.ModuleDict()
        width = widths[0]
        skips = []
        for side, next_width in zip(self.sides, widths, strict=True):
            name = f"{side}x{side}"
            if side == img_resolution:
                self.enc[f"{name}_conv"] = Conv2d(img_channels, width, 3)
            else:
                self.enc[f"{name}_down"] = block(width, width, resample="down")
            skips.append(width)
            for i in range(num_blocks):
                self.enc[f"{name}_block{i}"] = block(width, next_width, attention=side in attn_resolutions)
                width = next_width
                skips.append(width)

        self.dec = nn.ModuleDict()
        for side, next_width in zip(reversed(self.sides), reversed(widths), strict=True):
            name = f"{side}x{side}"
            if side == self.sides[-1]:
                self.dec[f"{name}_in0"] = block(width, width, attention=True)
                self.dec[f"{name}_in1"] = block(width, width)
            else:
                self.dec[f"{name}_up"] = block(width, width, resample="up")
            for i in range(num_blocks + 1):
                self.dec[f"{name}_block{i}"] = block(
                    width + skips.pop(), next_width, attention=side in attn_resolutions
                )
                width = next_width
        self.out_norm = GroupNorm(width, eps=1e-5)
        self.out_conv = Conv2d(width, out_channels or img_channels, 3)
        _initialise(self)

    def forward(
        self,
        x_BCHW: Tensor,
        c_noise_B: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Raw network output F [B, out_channels, H, W].

        Args:
            x_BCHW: image, scaled to unit variance by the preconditioner; cast to the dtype of the parameters,
                which the result has.
            c_noise_B: float32 noise condition [B] or [1].
            class_labels: one-hot (or zero) rows [B, label_dim] or [1, label_dim], for a conditional network.
            augment_labels: [B, augment_dim]; None for images without augmentation, as in sampling.
        """
        emb_BE = self._embedding(c_noise_B, class_labels, augment_labels).to(self.map_layer0.weight.dtype)
        x, skips = x_BCHW.to(self.out_conv.weight.dtype), []
        for name, layer in self.enc.items():
            x = layer(x) if name.endswith("_conv") else layer(x, emb_BE)
            skips.append(x)
        for name, layer in self.dec.items():
            x = layer(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, emb_BE)
        return self.out_conv(F.silu(self.out_norm(x)))

    def _embedding(
        self, c_noise_B: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None
    ) -> Tensor:
        half = self.model_channels // 2
        angles = positional_angles(c_noise_B, half, half)
        emb = torch.cat([angles.cos(), angles.sin()], dim=1)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + wide_linear(self.map_augment, augment_labels)
        emb = wide_linear(self.map_layer1, F.silu(wide_linear(self.map_layer0, emb)))
        if self.map_label is not None:
            if class_labels is None:
                raise ValueError(
                    f"this network has label_dim={self.label_dim} and needs class_labels [B, "
                    f"{self.label_dim}] (zeros for none)"
                )
            emb = emb + wide_linear(self.map_label, class_labels)
        return F.silu(emb)


def _initialise(network: DhariwalUNetModule) -> None:
    """Initialise as ADM does: uniform in +-1/sqrt(fan in), zeros in the last layers of branches and output,
    and standard normal label rows.
    """
    for module in network.modules():
        if isinstance(module, (nn.Linear, Conv2d)):
            for parameter in module.parameters():
                bound = 1 / math.sqrt(module.weight[0].numel())
                nn.init.uniform_(parameter, -bound, bound)
    ends = [
        layer
        for block in network.modules()
        if isinstance(block, UNetBlock)
        for layer in (block.conv1, getattr(block, "proj", None))
    ]
    for layer in (*ends, network.out_conv, network.map_augment):
        if layer is not None:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
    if network.map_label is not None:
        nn.init.normal_(network.map_label.weight)
