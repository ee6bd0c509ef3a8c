"""Specs of ADM's networks, for recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from dgflow.networks.adm.sizes import check_levels, level_widths
from dgflow.networks.discrete import discrete_score_model
from dgflow.networks.roles import ClassifierSpec, FeatureNetworkSpec, HeadSpec, ScoreNetworkSpec
from dgflow.networks.times import time_scale
from dgflow.networks.toy import capped
from dgflow.specs.network import DataShape

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from dgflow.diffusion.score_model import ScoreModel


class ADMUNet(ScoreNetworkSpec):
    """ADM's U-Net of Dhariwal & Nichol 2021, which predicts noise and the variance of the reverse step on a
    discrete schedule.

    `attention_resolutions` are downsampling factors. The defaults are those of `256x256_diffusion`.
    """

    model_channels: int = 256
    channel_mult: tuple[float, ...] = (1, 1, 2, 2, 4, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (8, 16, 32)
    num_head_channels: int | None = 64
    num_heads: int = 4  # used if num_head_channels is None
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    new_attention_order: bool = False
    dropout: float = 0.0
    learn_sigma: bool = True
    schedule: Literal["linear", "cosine"] = "linear"

    def check(self, shape: DataShape) -> None:
        _check_levels(self, shape, self.num_heads)

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """Build the network with fresh weights; `num_classes` is 0 for an unconditional network."""
        from dgflow.networks.adm.unet import ADMUNetModule

        return ADMUNetModule(
            image_size=image_size,
            in_channels=channels,
            out_channels=(2 if self.learn_sigma else 1) * channels,
            num_classes=num_classes or None,
            **self.model_dump(exclude={"learn_sigma", "schedule"}),
        )

    def score_model(self, network: Any) -> ScoreModel:
        return discrete_score_model(network, self.schedule, learn_sigma=self.learn_sigma)

    def toy(self, factor: int) -> Self:
        del factor
        return self.model_copy(update=_toy(self))


class ADMEncoder(ClassifierSpec, HeadSpec, FeatureNetworkSpec):
    """ADM's encoder half: a noise-conditioned classifier, a discriminator's head or, with `pool="adaptive"`,
    a feature network.

    `attention_resolutions` are downsampling factors (1 is the full image). Widths must be multiples of 32.
    `time` selects the network's time input: published 256-pixel and latent classifiers use DDPM's steps, the
    64-pixel classifier the cosine schedule.
    """

    judges_images: ClassVar[bool] = False  # except networks trained here on clean images

    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1,)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (1,)
    num_head_channels: int = 64
    pool: Literal["attention", "adaptive"] = "attention"

    def check(self, shape: DataShape) -> None:
        _check_levels(self, shape, 1)

    def feature_shape(self, shape: DataShape) -> DataShape:
        """The side and channels of the middle block's output for data of shape `shape`."""
        side = shape.image_size >> (len(self.channel_mult) - 1)
        return DataShape(side, self.model_channels * self.channel_mult[-1], shape.num_classes)

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """Build the classifier with fresh weights, one output per class."""
        return self._built(image_size, channels, outputs=num_classes, labels=0)

    def head(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """Build a discriminator head with fresh weights: one output, and `num_classes` rows of label
        embedding (0: unconditional).
        """
        return self._built(image_size, channels, outputs=1, labels=num_classes)

    def _built(self, image_size: int, channels: int, *, outputs: int, labels: int) -> nn.Module:
        from dgflow.networks.adm.encoder import ADMEncoderModule

        return ADMEncoderModule(
            image_size=image_size,
            in_channels=channels,
            out_channels=outputs,
            num_classes=labels or None,
            time_scale=time_scale(self.time),
            **self.model_dump(exclude={"time"}),
        )

    def judge(self, network: Any) -> Callable[[Tensor], dict[str, Tensor]]:
        """A function for pooled features and logits, at time 0.

        Raises ValueError unless `pool="adaptive"`.
        """
        import torch

        def judged(images: Tensor) -> dict[str, Tensor]:
            features = network.features(images, torch.zeros(len(images), device=images.device))
            return {"features": network.pooled(features), "logits": network.head(features)}

        return judged

    def feature_widths(self, num_classes: int) -> tuple[int, ...]:
        return self.model_channels * self.channel_mult[-1], num_classes

    def toy(self, factor: int) -> Self:
        del factor
        return self.model_copy(update=_toy(self))


def _toy(spec: ADMUNet | ADMEncoder) -> dict[str, Any]:
    return {
        "model_channels": 32,  # widths are multiples of 32
        "channel_mult": capped(spec.channel_mult, 2),
        "num_res_blocks": 1,
        "num_head_channels": None if spec.num_head_channels is None else 32,
    }


def _check_levels(spec: ADMUNet | ADMEncoder, shape: DataShape, num_heads: int) -> None:
    widths = level_widths(spec.model_channels, spec.channel_mult)
    check_levels(shape.image_size, widths, spec.attention_resolutions, spec.num_head_channels, num_heads)
