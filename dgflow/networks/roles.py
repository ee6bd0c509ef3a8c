"""The roles of networks. A backbone's spec is a subclass of one of them."""

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
    """A score network, for samplers."""

    gives_latents: ClassVar[bool] = False  # True if samples are latents, for a decoder
    has_null_class: ClassVar[bool] = False  # True with a null class, as classifier-free guidance needs

    @abstractmethod
    def score_model(self, network: Any) -> ScoreModel:
        """The functions by which samplers call `network`."""

    def probe(self, network: Any, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return self.score_model(network).denoiser(x.double(), sigma, labels)


class AutoencoderSpec(NetworkSpec):
    """An autoencoder between images in [-1, 1] and the latents of some score networks."""

    latent_columns: ClassVar[tuple[str, ...]] = ("mean", "std")
    """The columns of `encode`: mean and standard deviation, or ("latent",) if `encode` draws the latents."""
    pixel_offset: ClassVar[float] = 128.0
    """Added to 127.5 times a decoded image before truncation to pixels: 128 rounds."""

    @abstractmethod
    def latent_shape(self, image_size: int) -> tuple[int, int]:
        """(side, channels) of the latents of images of side `image_size`.

        Raises ValueError if the side cannot be halved often enough.
        """

    @abstractmethod
    def encode(
        self, network: Any, images_BCHW: Tensor, noise_BCHW: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Encode images in [-1, 1] to the `latent_columns`, each [B, C, H, W].

        Args:
            noise_BCHW: standard normal, shaped like the latents; needed if latents are drawn.
        """

    @abstractmethod
    def decode(self, network: Any, latents_BCHW: Tensor) -> Tensor:
        """Decode latents to images, mostly in [-1, 1] but not clamped."""

    @property
    def draws(self) -> bool:
        """True if `encode` needs noise."""
        return self.latent_columns == ("latent",)

    def probe(self, network: Any, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        import torch

        side, channels = self.latent_shape(x.shape[-1])
        noise = torch.randn(len(x), channels, side, side, device=x.device)
        return self.encode(network, x, noise)[0]

    def probe_decoder(self, network: Any, x: Tensor) -> Tensor:
        """Call the decoder, as `probe` does, on synthetic latents for images like `x`."""
        import torch

        side, channels = self.latent_shape(x.shape[-1])
        return self.decode(network, torch.randn(len(x), channels, side, side, device=x.device))


class GuideSpec(NetworkSpec):
    """A network of a noisy sample and its time that can guide a sampler."""

    @abstractmethod
    def time_map(self) -> TimeMap:
        """The map from a noise level to the network's time."""

    @property
    def time_name(self) -> str:
        """A name of `time_map`, equal for networks that can be evaluated together. A class whose time depends
        on its fields must include them in the name.
        """
        return f"that of {type(self).__name__}"

    def probe(self, network: Any, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return network(x, sigma.float())


class ClassifierSpec(GuideSpec):
    """A classifier of noisy samples: logits [B, num_classes]."""

    needs_classes: ClassVar[bool] = True


class HeadSpec(GuideSpec):
    """A network that can be a discriminator's head: one logit from a noisy sample, or from its features.

    `time` is the time of its input; on features, the features' time.
    """

    time: TimeName = "linear-vp"

    @abstractmethod
    def head(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """Build a head with fresh weights, for samples or features of these sizes.

        The call `head(x [B, C, H, W], time [B], class_labels)` returns logits [B, 1]. With `num_classes` 0
        the head ignores labels; otherwise it needs them, int64 [B] or one-hot [B, K].
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
        """The frozen network whose output the head reads; None if there is none. Members of an ensemble with
        the same frozen network share its computation.
        """
        return None

    def probe_head(self, network: Any, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        """Call the head alone, as `probe` does, on synthetic features for samples like `x`, with gradients
        required; used if there are `frozen_features`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no head on frozen features")

    def probe(self, network: Any, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return network(x, sigma.float(), labels)


class FeatureNetworkSpec(NetworkSpec):
    """A feature network of clean images; the evaluation compares its features."""

    judges_images: ClassVar[bool] = True
    takes_front_end: ClassVar[bool] = False  # True if a protocol's front end prepares its input

    @property
    def gives_logits(self) -> bool:
        """True if the network gives logits in addition to features."""
        return True

    @abstractmethod
    def judge(self, network: Any) -> Callable[[Tensor], dict[str, Tensor]]:
        """A function from images float32 [B, C, H, W] in [-1, 1], or from a front end's output, to the
        columns of `Features` (`features` and, if any, `spatial` and `logits`).
        """

    def feature_widths(self, num_classes: int) -> tuple[int, ...] | None:
        """Width of each column, in the order `features`, `spatial`, `logits`; None if the widths are unknown
        before the network runs.
        """
        del num_classes
        return None
