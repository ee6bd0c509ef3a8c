"""What recipes say about autoencoders, between images and the latents that some score networks work in.

Both are asked in one way, for images in [-1, 1]: `encode` and `decode`, with the loaded network. The networks are in `dgflow.networks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dgflow.steps.step import Spec, Weights

if TYPE_CHECKING:
    from torch import Tensor, nn


class StableDiffusionVAE(Spec):
    """diffusers' `AutoencoderKL` (`pip install "dgflow[dit]"`), its latents scaled by `scale`; the defaults are those of DiT's."""

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    scale: float = 0.18215

    def latent_shape(self, image_size: int) -> tuple[int, int]:
        """(side, channels) of the latents of images of that side. Raises ValueError where it cannot be halved often enough."""
        return _halved(image_size, len(self.block_out_channels) - 1), self.latent_channels

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """The network with fresh weights.

        Raises:
            ValueError: diffusers is not installed, or classes, which it has not.
        """
        from dgflow.networks.latents import StableDiffusionVAE as Network

        _without_classes(self, num_classes)
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

    def encode(self, network: nn.Module, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents [B, C, H, W] of images in [-1, 1]."""
        from dgflow.networks.latents import StableDiffusionVAE as Network

        assert isinstance(network, Network)
        return network.encode(images_BCHW)

    def decode(self, network: nn.Module, latents_BCHW: Tensor) -> Tensor:
        """Images in [-1, 1] for the most part, not clamped."""
        from dgflow.networks.latents import StableDiffusionVAE as Network

        assert isinstance(network, Network)
        return network.decode(latents_BCHW)


class NVAE(Spec):
    """LSGM's hierarchical VAE with one scale of latents; the defaults are those of the CIFAR-10 model with the best FID."""

    decoder_dist: Literal["dml", "normal", "dl", "bin"] = "dml"
    arch_instance: Literal["res_bnswish", "res_mbconv"] = "res_bnswish"
    channel_mult: tuple[int, ...] = (1, 2)
    num_channels_enc: int = 128
    num_channels_dec: int = 128
    num_preprocess_blocks: int = 1
    num_preprocess_cells: int = 2
    num_postprocess_blocks: int = 1
    num_postprocess_cells: int = 2
    num_groups_per_scale: int = 20
    num_latent_per_group: int = 9
    num_cell_per_cond_enc: int = 2
    num_cell_per_cond_dec: int = 2
    use_se: bool = True
    num_nf: int = 0

    def latent_shape(self, image_size: int) -> tuple[int, int]:
        """(side, channels) of the latents of images of that side. Raises ValueError where it cannot be halved often enough."""
        return _halved(image_size, len(self.channel_mult) - 1), self.num_groups_per_scale * self.num_latent_per_group

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """The network with fresh weights. Raises ValueError for numbers that do not fit each other, and for classes, which it has not."""
        from dgflow.networks.nvae import NVAE as Network

        _without_classes(self, num_classes)
        return Network(image_size=image_size, in_channels=channels, num_latent_scales=1, **self.model_dump())

    def encode(self, network: nn.Module, images_BCHW: Tensor, noise_BCHW: Tensor) -> Tensor:
        """Latents [B, C, H, W] of images in [-1, 1], each group drawn from its posterior given those before it.

        Args:
            noise_BCHW: standard normal, shaped like the latents.
        """
        from dgflow.networks.nvae import NVAE as Network

        assert isinstance(network, Network)
        return network.encode((images_BCHW + 1) / 2, [noise_BCHW])[0]

    def decode(self, network: nn.Module, latents_BCHW: Tensor) -> Tensor:
        """Images in [-1, 1]: the mean of the output head."""
        from dgflow.networks.nvae import NVAE as Network

        assert isinstance(network, Network)
        return 2 * network.decode(latents_BCHW) - 1


VAE = StableDiffusionVAE | NVAE


def vae_of(weights: Weights) -> VAE:
    """The autoencoder that these are the weights of. Raises ValueError where they are another network's."""
    network = getattr(weights.step, "network", None)
    if not isinstance(network, VAE):
        raise ValueError(
            f"expected the weights of an autoencoder (StableDiffusionVAE or NVAE), found {weights.step.kind} of {type(network).__name__}"
        )
    return network


def _halved(image_size: int, times: int) -> int:
    if image_size % (1 << times):
        raise ValueError(f"expected images whose side can be halved {times} times, found {image_size}: resize or crop them")
    return image_size >> times


def _without_classes(spec: VAE, num_classes: int) -> None:
    if num_classes:
        raise ValueError(f"{type(spec).__name__} has no classes: expected num_classes=0, found {num_classes}")
