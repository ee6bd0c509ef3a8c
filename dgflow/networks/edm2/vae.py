"""Stable Diffusion's autoencoder as EDM2 uses it: on images in [0, 1] rather than [-1, 1], with latents
normalised channel by channel. Needs diffusers (`pip install "dgflow[dit]"`), imported on first use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dgflow.networks.stable_diffusion.module import StableDiffusionVAEModule


class EDM2VAEModule(StableDiffusionVAEModule):
    """KL autoencoder whose latents are scale * raw + bias per channel.

    Args:
        autoencoder: a diffusers `AutoencoderKL`, put into evaluation mode here.
        raw_mean, raw_std: mean and standard deviation of the raw latents of the data, per channel.
        final_mean, final_std: mean and standard deviation of the normalised latents.
    """

    scale_C: Tensor
    bias_C: Tensor

    def __init__(
        self,
        autoencoder: nn.Module,
        *,
        raw_mean: Sequence[float],
        raw_std: Sequence[float],
        final_mean: float,
        final_std: float,
    ) -> None:
        super().__init__(autoencoder, scale=1.0)
        # In float32 as published.
        scale = torch.tensor(final_std, dtype=torch.float32) / torch.tensor(raw_std, dtype=torch.float32)
        bias = final_mean - torch.tensor(raw_mean, dtype=torch.float32) * scale
        self.register_buffer("scale_C", scale[:, None, None], persistent=False)
        self.register_buffer("bias_C", bias[:, None, None], persistent=False)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents, [B, 4, H/8, W/8] for the published sizes, of `images`
        [B, 3, H, W] in [-1, 1]."""
        mean, std = super().encode((images + 1) / 2)
        return mean * self.scale_C + self.bias_C, std * self.scale_C

    def decode(self, latents: Tensor) -> Tensor:
        """Decode normalised latents to images [B, 3, H, W], mostly in [-1, 1] but not clamped."""
        return 2 * super().decode((latents - self.bias_C) / self.scale_C) - 1
