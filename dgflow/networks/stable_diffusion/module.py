"""Stable Diffusion's KL autoencoder, by diffusers (`pip install "dgflow[dit]"`), which is imported on first
use. Latents are diffusers' latents times the scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor, nn

SCALE = 0.18215
"""Factor that scales latents to about unit variance (Rombach et al. 2022; DiT)."""


class StableDiffusionVAEModule(nn.Module):
    """KL autoencoder whose latents are scaled by `scale`.

    Args:
        autoencoder: a diffusers `AutoencoderKL`, put into evaluation mode here. Its weights are those of
            published files.
        scale: factor on the latents.
    """

    def __init__(self, autoencoder: nn.Module, *, scale: float = SCALE) -> None:
        super().__init__()
        self.autoencoder: Any = autoencoder.eval()
        self.scale = scale

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **scaling: Any) -> Self:
        """Build the autoencoder with fresh weights from `AutoencoderKL`'s configuration, as in a published
        config.json, and the scaling arguments.

        Raises:
            ImportError: diffusers is not installed.
        """
        try:
            from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        except ImportError as error:
            raise ImportError(
                "Stable Diffusion's autoencoder needs the package diffusers, which cannot be imported "
                f"({error}): pip install 'dgflow[dit]'"
            ) from error
        autoencoder: Any = AutoencoderKL.from_config(dict(config))
        return cls(autoencoder, **scaling)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents, [B, 4, H/8, W/8] for the published sizes, of `images`
        [B, 3, H, W] in [-1, 1]."""
        posterior = self.autoencoder.encode(images).latent_dist
        return self.scale * posterior.mean, self.scale * posterior.std

    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents to images [B, 3, H, W], mostly in [-1, 1] but not clamped."""
        return self.autoencoder.decode(latents / self.scale).sample
