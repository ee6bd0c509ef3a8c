"""EDM's score network SongUNet (Karras et al. 2022): DDPM++ and NCSN++, with the published names and
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

from dgflow.networks.checks import check_choice
from dgflow.networks.edm.layers import (
    INIT_SMALL,
    Conv2d,
    FourierEmbedding,
    GroupNorm,
    PositionalEmbedding,
    UNetBlock,
    linear,
)
from dgflow.networks.precision import wide_linear

EPS = 1e-6
"""Epsilon of every group norm."""


class SongUNetModule(nn.Module):
    """U-Net of (image, noise condition, labels). The defaults are DDPM++ ("vp" in published names).

    NCSN++ ("ve"): embedding_type="fourier", encoder_type="residual", channel_mult_noise=2,
    resample_filter=[1, 3, 3, 1].

    Args:
        img_resolution: side of the image in pixels, divisible by 2 for every level but the first.
        img_channels: channels of input and output.
        label_dim: number of classes; 0 for an unconditional network.
        augment_dim: width of the augmentation labels; 0 for none (9 in the published networks).
        model_channels: base width; the embedding is four times as wide, the noise embedding
            `channel_mult_noise` times.
        channel_mult: width of each level as a multiple of `model_channels`.
        num_blocks: residual blocks per level (one more in the decoder).
        attn_resolutions: sides in pixels with attention; the deepest level of the decoder always begins with
            attention.
        dropout: probability of dropout, in training only.
        embedding_type: "positional" or "fourier" (random frequencies, stored).
        encoder_type, decoder_type: "standard", or the way in which a pyramid of small images joins: "skip"
            (sum) or "residual" (learned; encoder only).
        resample_filter: taps of the filter between levels.

    Raises:
        ValueError: a type is unknown, or the levels cannot halve the resolution.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        *,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        embedding_type: Literal["positional", "fourier"] = "positional",
        channel_mult_noise: int = 1,
        encoder_type: Literal["standard", "skip", "residual"] = "standard",
        decoder_type: Literal["standard", "skip"] = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__()
        if img_resolution % 2 ** (len(channel_mult) - 1):
            raise ValueError(
                f"img_resolution {img_resolution} cannot be halved {len(channel_mult) - 1} times "
                "(channel_mult has that many + 1)"
            )
        check_choice("embedding_type", embedding_type, ("positional", "fourier"))
        check_choice("encoder_type", encoder_type, ("standard", "skip", "residual"))
        check_choice("decoder_type", decoder_type, ("standard", "skip"))
        self.img_resolution, self.img_channels, self.label_dim, self.augment_dim = (
            img_resolution,
            img_channels,
            label_dim,
            augment_dim,
        )
        self.encoder_type, self.num_blocks = encoder_type, num_blocks
        self.sides = [img_resolution >> level for level in range(len(channel_mult))]
        widths = [model_channels * mult for mult in channel_mult]
        E, noise_channels = 4 * model_channels, model_channels * channel_mult_noise

        self.map_noise = (
            PositionalEmbedding(noise_channels)
            if embedding_type == "positional"
            else FourierEmbedding(noise_channels)
        )
        self.map_label = linear(label_dim, noise_channels) if label_dim else None
        self.map_augment = linear(augment_dim, noise_channels, bias=False) if augment_dim else None
        self.map_layer0, self.map_layer1 = linear(noise_channels, E), linear(E, E)

        def block(
            width_in: int,
            width_out: int,
            attention: bool = False,
            resample: Literal["up", "down"] | None = None,
        ) -> UNetBlock:
            return UNetBlock(
                width_in,
                width_out,
                E,
                resample=resample,
                resample_filter=resample_filter,
                num_heads=1 if attention else 0,
                dropout=dropout,
                adaptive_scale=False,
                skip_scale=math.sqrt(0.5),
                eps=EPS,
                resample_proj=True,
            )

        self.enc = nn.ModuleDict()
        width, aux_width = model_channels, img_channels
        skips = []
        for side, next_width in zip(self.sides, widths, strict=True):
            name = f"{side}x{side}"
            if side == img_resolution:
                self.enc[f"{name}_conv"] = Conv2d(img_channels, width, 3)
            else:
                self.enc[f"{name}_down"] = block(width, width, resample="down")
                if encoder_type == "skip":
                    self.enc[f"{name}_aux_down"] = Conv2d(
                        aux_width, aux_width, 0, resample="down", resample_filter=resample_filter
                    )
                    self.enc[f"{name}_aux_skip"] = Conv2d(aux_width, width, 1)
                elif encoder_type == "residual":
                    self.enc[f"{name}_aux_residual"] = Conv2d(
                        aux_width, width, 3, resample="down", resample_filter=resample_filter, fused=True
                    )
                    aux_width = width
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
                attention = i == num_blocks and side in attn_resolutions
                self.dec[f"{name}_block{i}"] = block(width + skips.pop(), next_width, attention=attention)
                width = next_width
            if decoder_type == "skip" or side == img_resolution:
                if side != self.sides[-1] and decoder_type == "skip":
                    self.dec[f"{name}_aux_up"] = Conv2d(
                        img_channels, img_channels, 0, resample="up", resample_filter=resample_filter
                    )
                self.dec[f"{name}_aux_norm"] = GroupNorm(width, EPS)
                self.dec[f"{name}_aux_conv"] = Conv2d(width, img_channels, 3, init_weight=INIT_SMALL)

    def forward(
        self,
        x_BCHW: Tensor,
        c_noise_B: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Raw network output F [B, img_channels, H, W].

        Args:
            x_BCHW: image, scaled to unit variance by the preconditioner; cast to the dtype of the parameters,
                which the result has.
            c_noise_B: float32 noise condition [B] or [1].
            class_labels: one-hot (or zero) rows [B, label_dim] or [1, label_dim], for a conditional network.
            augment_labels: [B, augment_dim]; None for images without augmentation, as in sampling.
        """
        emb_BE = self._embedding(c_noise_B, class_labels, augment_labels).to(self.map_layer0.weight.dtype)
        skips = []
        x = aux = x_BCHW.to(next(self.enc.parameters()).dtype)
        for side in self.sides:
            name = f"{side}x{side}"
            if side == self.img_resolution:
                x = self.enc[f"{name}_conv"](x)
            else:
                x = self.enc[f"{name}_down"](x, emb_BE)
                if self.encoder_type == "skip":
                    aux = self.enc[f"{name}_aux_down"](aux)
                    x = x + self.enc[f"{name}_aux_skip"](aux)
                elif self.encoder_type == "residual":
                    x = aux = (x + self.enc[f"{name}_aux_residual"](aux)) * math.sqrt(0.5)
            skips.append(x)
            for i in range(self.num_blocks):
                x = self.enc[f"{name}_block{i}"](x, emb_BE)
                skips.append(x)

        image = None
        for side in reversed(self.sides):
            name = f"{side}x{side}"
            if side == self.sides[-1]:
                x = self.dec[f"{name}_in1"](self.dec[f"{name}_in0"](x, emb_BE), emb_BE)
            else:
                x = self.dec[f"{name}_up"](x, emb_BE)
            for i in range(self.num_blocks + 1):
                x = self.dec[f"{name}_block{i}"](torch.cat([x, skips.pop()], dim=1), emb_BE)
            if f"{name}_aux_conv" in self.dec:
                head = self.dec[f"{name}_aux_conv"](F.silu(self.dec[f"{name}_aux_norm"](x)))
                image = head if image is None else self.dec[f"{name}_aux_up"](image) + head
        assert image is not None  # the finest level always has a head
        return image

    def _embedding(
        self, c_noise_B: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None
    ) -> Tensor:
        emb = self.map_noise(c_noise_B)
        if self.map_label is not None:
            if class_labels is None:
                raise ValueError(
                    f"this network has label_dim={self.label_dim} and needs class_labels [B, "
                    f"{self.label_dim}] (zeros for none)"
                )
            emb = emb + wide_linear(self.map_label, class_labels * math.sqrt(self.label_dim))
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + wide_linear(self.map_augment, augment_labels)
        return F.silu(wide_linear(self.map_layer1, F.silu(wide_linear(self.map_layer0, emb))))
