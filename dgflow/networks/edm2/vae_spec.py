"""Spec of EDM2's autoencoder, for recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from dgflow.networks.stable_diffusion.spec import DiffusersVAE
from dgflow.specs.network import DataShape

if TYPE_CHECKING:
    from torch import nn


class EDM2VAE(DiffusersVAE):
    """diffusers' `AutoencoderKL` (`pip install "dgflow[dit]"`) of images in [0, 1], with latents rescaled per
    channel from `raw_mean` and `raw_std` to `final_mean` and `final_std`; the defaults are EDM2's on
    ImageNet-512.
    """

    pixel_offset: ClassVar[float] = 127.5  # pixels are truncated at 255 v, as published

    raw_mean: tuple[float, ...] = (5.81, 3.25, 0.12, -2.15)
    raw_std: tuple[float, ...] = (4.17, 4.62, 3.71, 3.28)
    final_mean: float = 0.0
    final_std: float = Field(default=0.5, gt=0)

    def check(self, shape: DataShape) -> None:
        super().check(shape)
        for name, values in (("raw_mean", self.raw_mean), ("raw_std", self.raw_std)):
            if len(values) != self.latent_channels:
                raise ValueError(
                    f"expected {name} of each of the {self.latent_channels} channels of latents, found "
                    f"{len(values)} numbers"
                )

    def module(self, config: Mapping[str, Any]) -> nn.Module:
        from dgflow.networks.edm2.vae import EDM2VAEModule

        scaling = self.model_dump(include={"raw_mean", "raw_std", "final_mean", "final_std"})
        return EDM2VAEModule.from_config(config, **scaling)
