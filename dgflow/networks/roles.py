"""The roles that a network can play. A backbone's spec is a subclass of one of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from dgflow.networks.times import TimeName, time_map
from dgflow.specs.network import NetworkSpec
from dgflow.specs.step import Weights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dgflow.diffusion.score_model import ScoreModel
    from dgflow.diffusion.times import TimeMap


class ScoreNetworkSpec(NetworkSpec):
    """A network that samplers draw with."""

    gives_latents: ClassVar[bool] = False  # its samples are latents, for a decoder
    has_null_class: ClassVar[bool] = False  # needed for classifier-free guidance

    @abstractmethod
    def score_model(self, network: Any) -> ScoreModel:
        """The functions by which samplers ask `network`."""

    def probe(self, network: Any, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return self.score_model(network).denoiser(x.double(), sigma, labels)


class AutoencoderSpec(NetworkSpec):
    """A network between images in [-1, 1] and the latents that some score networks work in."""

    latent_columns: ClassVar[tuple[str, ...]] = ("mean", "std")
    """The parts that `encode` gives: mean and standard deviation, or ("latent",) where latents can only be
    drawn."""
    pixel_offset: ClassVar[float] = 128.0
    """Added to 127.5 times a decoded image before it is truncated to pixels: 128 rounds."""

    @abstractmethod
    def latent_shape(self, image_size: int) -> tuple[int, int]:
        """(side, channels) of the latents of images of that side.

        Raises ValueError where it cannot be halved often enough.
        """

    @abstractmethod
    def encode(
        self, network: Any, images_BCHW: Tensor, noise_BCHW: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The `latent_columns` of images in [-1, 1], each [B, C, H, W].

        Args:
            noise_BCHW: standard normal, shaped like the latents; needed where latents are drawn.
        """

    @abstractmethod
    def decode(self, network: Any, latents_BCHW: Tensor) -> Tensor:
        """Images in [-1, 1] for the most part, not clamped."""

    @property
    def draws(self) -> bool:
        """True where `encode` needs noise."""
        return self.latent_columns == ("latent",)

    def probe(self, network: Any, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        import torch

        side, channels = self.latent_shape(x.shape[-1])
        noise = torch.randn(len(x), channels, side, side, device=x.device)
        return self.encode(network, x, noise)[0]

    def probe_decoder(self, network: Any, x: Tensor) -> Tensor:
        """As `probe`, of the other half: the images of made-up latents for images like `x`."""
        import torch

        side, channels = self.latent_shape(x.shape[-1])
        return self.decode(network, torch.randn(len(x), channels, side, side, device=x.device))


class GuideSpec(NetworkSpec):
    """A network of noisy samples and their time that can guide a sampler."""

    @abstractmethod
    def time_map(self) -> TimeMap:
        """The time that the network is given for a noise level."""

    @property
    def time_name(self) -> str:
        """The name of `time_map`, equal for networks that can be asked together. A class whose time depends
        on its fields has to say so here."""
        return f"that of {type(self).__name__}"

    def probe(self, network: Any, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return network(x, sigma.float())


class ClassifierSpec(GuideSpec):
    """A classifier of noisy samples: logits [B, num_classes]."""

    needs_classes: ClassVar[bool] = True


class HeadSpec(GuideSpec):
    """A network that can be the head of a discriminator: one logit of a noisy sample, or of its features.

    `time` is the time that it is given; on features, that of these.
    """

    time: TimeName = "linear-vp"

    @abstractmethod
    def head(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """A head with fresh weights, for samples or features of these sizes.

        It is called as `head(x [B, C, H, W], time [B], class_labels)` and gives logits [B, 1]. With
        `num_classes` 0 it ignores labels; else it needs them, int64 [B] or one-hot [B, K].
        """

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        return self.head(image_size=image_size, channels=channels, num_classes=num_classes)

    def time_map(self) -> TimeMap:
        return time_map(self.time)

    @property
    def time_name(self) -> str:
        return self.time

    def probe(self, network: Any, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return network(x, sigma.float(), labels)


class DiscriminatorSpec(GuideSpec):
    """A discriminator of noisy samples: logits [B] of real against generated."""

    @property
    def frozen_features(self) -> Weights | None:
        """The frozen network whose output its head reads, None without one. The members of an ensemble that
        have the same one share its computation."""
        return None

    def probe_head(self, network: Any, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        """As `probe`, of the head alone, on made-up features for samples like `x`, which require gradients;
        asked where there are `frozen_features`."""
        raise NotImplementedError(f"{type(self).__name__} has no head on frozen features")

    def probe(self, network: Any, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return network(x, sigma.float(), labels)


class FeatureNetworkSpec(NetworkSpec):
    """A network that judges clean images: the evaluation compares its features."""

    judges_images: ClassVar[bool] = True
    takes_front_end: ClassVar[bool] = False  # its input is made by the front end of a protocol

    @property
    def gives_logits(self) -> bool:
        """True where there are logits beside the features."""
        return True

    @abstractmethod
    def judge(self, network: Any) -> Callable[[Tensor], dict[str, Tensor]]:
        """A function of images float32 [B, C, H, W] in [-1, 1], or of what a front end made of them: the
        columns of `Features` (`features` and, where it has them, `spatial` and `logits`)."""

    def feature_widths(self, num_classes: int) -> tuple[int, ...] | None:
        """Width of each of the columns, in the order of `features`, `spatial`, `logits`; None where only
        running the network would tell."""
        del num_classes
        return None
