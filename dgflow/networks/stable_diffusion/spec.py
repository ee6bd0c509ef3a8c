"""Stable Diffusion's autoencoder as recipes name it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from dgflow.networks.discrete import check_unconditional
from dgflow.networks.latent_shapes import halved
from dgflow.networks.roles import AutoencoderSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


class StableDiffusionVAE(AutoencoderSpec):
    """diffusers' `AutoencoderKL` (`pip install "dgflow[dit]"`), its latents scaled by `scale`; the defaults
    are those of DiT's."""

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    scale: float = 0.18215

    def latent_shape(self, image_size: int) -> tuple[int, int]:
        return halved(image_size, len(self.block_out_channels) - 1), self.latent_channels

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """The network with fresh weights.

        Raises:
            ValueError: diffusers is not installed, or classes, which it has not.
        """
        from dgflow.networks.stable_diffusion.module import StableDiffusionVAE as Network

        check_unconditional(type(self).__name__, num_classes)
        levels = len(self.block_out_channels)
        config = {
            "in_channels": channels,
            "out_channels": channels,
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "sample_size": image_size,
            **self.model_dump(exclude={"scale"}),
        }
        try:
            return Network.from_config(config, scale=self.scale)
        except ImportError as error:
            raise ValueError(str(error)) from error

    def kept(self, network: nn.Module) -> nn.Module:
        from dgflow.networks.stable_diffusion.module import StableDiffusionVAE as Network

        assert isinstance(network, Network)
        return network.autoencoder

    def encode(
        self, network: nn.Module, images_BCHW: Tensor, noise_BCHW: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Mean and standard deviation of the latents."""
        del noise_BCHW
        from dgflow.networks.stable_diffusion.module import StableDiffusionVAE as Network

        assert isinstance(network, Network)
        return network.encode(images_BCHW)

    def decode(self, network: nn.Module, latents_BCHW: Tensor) -> Tensor:
        """Images in [-1, 1] for the most part, not clamped."""
        from dgflow.networks.stable_diffusion.module import StableDiffusionVAE as Network

        assert isinstance(network, Network)
        return network.decode(latents_BCHW)

    def toy(self, factor: int) -> Self:
        del factor
        return self.model_copy(
            update={
                "block_out_channels": (32,) * len(self.block_out_channels),
                "layers_per_block": 1,
                "norm_num_groups": 8,
            }
        )
