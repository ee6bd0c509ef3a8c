"""Images to and from the latent space of DiT: Stable Diffusion's KL autoencoder, with diffusers (`pip install "dgflow[dit]"`).

Promises diffusers' numbers times the scale, from weights that are at hand: nothing is downloaded, and nothing but safetensors is read.
Leaves to others: fetching the folder, drawing latents from (mean, std), and clamping images.
diffusers is imported on first use, so that this module can be imported without it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from dgflow.networks.checkpoints import load_into, load_weights

SCALE = 0.18215
"""Factor on the latents that brings them to about unit variance (Rombach et al. 2022; DiT)."""
PUBLISHED_CONFIG: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
}
"""Of the autoencoders that DiT uses, sd-vae-ft-mse and sd-vae-ft-ema, for weights that come without their config.json."""
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
OLD_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names in files that early versions of diffusers wrote, to today's."""


class StableDiffusionVAE(nn.Module):
    """KL autoencoder whose latents are scaled by `scale`. Build it with `from_folder` or `from_state_dict`.

    Args:
        autoencoder: a diffusers `AutoencoderKL`, put into evaluation mode here.
        scale: factor on the latents.
    """

    def __init__(self, autoencoder: nn.Module, *, scale: float = SCALE) -> None:
        super().__init__()
        self.autoencoder: Any = autoencoder.eval()
        self.scale = scale

    @classmethod
    def from_folder(cls, folder: str | Path, *, scale: float = SCALE) -> Self:
        """From a local folder in diffusers' layout: config.json and diffusion_pytorch_model.safetensors.

        Raises:
            ImportError: diffusers is not installed.
            FileNotFoundError: one of the two files is missing.
            ValueError: the weights are not safetensors, or do not fit the configuration.
        """
        folder = Path(folder)
        missing = [name for name in ("config.json", WEIGHTS_NAME) if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(f"{folder} has no {' and no '.join(missing)}: name a local folder of an AutoencoderKL that has both")
        config = json.loads((folder / "config.json").read_text())
        state_dict = load_weights((folder / WEIGHTS_NAME).read_bytes())
        return cls.from_state_dict(config, state_dict, source=str(folder), scale=scale)

    @classmethod
    def from_state_dict(cls, config: Mapping[str, Any], state_dict: Mapping[str, Tensor], *, source: str, scale: float = SCALE) -> Self:
        """From `AutoencoderKL`'s configuration and weights, the attention under its present or its old names.

        Args:
            config: as in config.json; `PUBLISHED_CONFIG` for DiT's autoencoders.
            source: where the weights come from, for the error.

        Raises:
            ImportError: diffusers is not installed.
            ValueError: the weights do not fit the configuration.
        """
        autoencoder = _autoencoder(config)
        load_into(autoencoder, {_present_name(name): tensor for name, tensor in state_dict.items()}, source=source)
        return cls(autoencoder, scale=scale)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents, [B, 4, H/8, W/8] for the published sizes, of `images` [B, 3, H, W] in [-1, 1]."""
        posterior = self.autoencoder.encode(images).latent_dist
        return self.scale * posterior.mean, self.scale * posterior.std

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, 3, H, W] of scaled latents. In [-1, 1] for the most part; not clamped."""
        return self.autoencoder.decode(latents / self.scale).sample


def _autoencoder(config: Mapping[str, Any]) -> nn.Module:
    try:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    except ImportError as error:
        raise ImportError(
            f"Stable Diffusion's autoencoder needs the package diffusers, which cannot be imported ({error}): "
            'pip install "dgflow[dit]", or pip install diffusers'
        ) from error
    autoencoder: Any = AutoencoderKL.from_config(dict(config))
    return autoencoder


def _present_name(name: str) -> str:
    """The name that diffusers gives the parameter today."""
    return re.sub(r"(\.attentions\.\d+\.)(query|key|value|proj_attn)\.", lambda match: f"{match[1]}{OLD_ATTENTION_NAMES[match[2]]}.", name)
