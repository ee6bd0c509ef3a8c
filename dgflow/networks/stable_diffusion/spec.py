"""Spec of Stable Diffusion's autoencoder, for recipes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from dgflow.networks.checks import check_unconditional, check_widths, halved
from dgflow.networks.roles import AutoencoderSpec
from dgflow.specs.network import DataShape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dgflow.weights.declared import Said
    from dgflow.weights.weight_file import File, WeightFile


class DiffusersVAE(AutoencoderSpec):
    """The architecture of diffusers' `AutoencoderKL` (`pip install "dgflow[dit]"`); subclasses scale its
    latents."""

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32

    def latent_shape(self, image_size: int) -> tuple[int, int]:
        return halved(image_size, len(self.block_out_channels) - 1), self.latent_channels

    def check(self, shape: DataShape) -> None:
        check_unconditional(type(self).__name__, shape.num_classes)
        self.latent_shape(shape.image_size)
        check_widths(self.block_out_channels, self.norm_num_groups)

    @abstractmethod
    def module(self, config: Mapping[str, Any]) -> nn.Module:
        """Build the network with fresh weights from `AutoencoderKL`'s configuration."""

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """Build the network with fresh weights.

        Raises:
            ValueError: diffusers is not installed, or classes are given, which the network does not have.
        """
        check_unconditional(type(self).__name__, num_classes)
        levels = len(self.block_out_channels)
        config = {
            "in_channels": channels,
            "out_channels": channels,
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "sample_size": image_size,
            **self.model_dump(include=set(DiffusersVAE.model_fields)),
        }
        try:
            return self.module(config)
        except ImportError as error:
            raise ValueError(str(error)) from error

    def kept(self, network: Any) -> nn.Module:
        return network.autoencoder

    def encode(
        self, network: Any, images_BCHW: Tensor, noise_BCHW: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Mean and standard deviation of the latents."""
        del noise_BCHW
        return network.encode(images_BCHW)

    def decode(self, network: Any, latents_BCHW: Tensor) -> Tensor:
        """Decode latents to images, mostly in [-1, 1] but not clamped."""
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

    def _content(
        self, file: File, format: str, network: Any, shape: DataShape, source: str, key: str | None
    ) -> WeightFile:
        """Read the weights under diffusers' current names."""
        from dgflow.networks.stable_diffusion.file import present_names

        found = super()._content(file, format, network, shape, source, key)
        return replace(found, tensors=present_names(found.tensors))

    def said(self, network: Any, shape: DataShape) -> dict[str, Said]:
        """The settings that a file may declare; the image size is omitted, since the autoencoder takes any
        size.
        """
        from dgflow.weights.declared import Said

        said = super().said(network, shape)
        del said["image_size"]
        return said | {"_class_name": Said("AutoencoderKL", None)}


class StableDiffusionVAE(DiffusersVAE):
    """diffusers' `AutoencoderKL` (`pip install "dgflow[dit]"`) with latents scaled by `scale`; the defaults
    are the autoencoder of DiT.
    """

    scale: float = 0.18215

    def module(self, config: Mapping[str, Any]) -> nn.Module:
        from dgflow.networks.stable_diffusion.module import StableDiffusionVAEModule

        return StableDiffusionVAEModule.from_config(config, scale=self.scale)

    def said(self, network: Any, shape: DataShape) -> dict[str, Said]:
        """The settings that a file may declare, including names that differ in diffusers' `config.json`."""
        from dgflow.weights.declared import Said

        said = super().said(network, shape)
        del said["scale"]
        return said | {"scaling_factor": Said(self.scale, "scale")}
