"""Spec of the discriminator, for recipes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import SerializeAsAny, model_validator

from dgflow.diffusion.ranges import EDM_RANGE
from dgflow.networks.adm.spec import ADMEncoder
from dgflow.networks.roles import DiscriminatorSpec, HeadSpec
from dgflow.networks.times import NoiseName, ProcessName
from dgflow.specs.network import DataShape
from dgflow.specs.spec import LATER
from dgflow.specs.step import Weights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dgflow.diffusion.times import TimeMap


class Discriminator(DiscriminatorSpec):
    """A discriminator: a head with one output, on the middle features of a noisy classifier or on the
    samples.

    The features are frozen, as published. With `fine_tune` they start from the given weights, are trained
    with the head (the paper's figure 28b), and are stored beside the head.

    With features, both networks use the features' time, and the head's `time` must be left at its default.

    `process` is the form in which the head receives samples and times (figure 28a). "linear-vp", as
    published: the sample in variance-preserving scaling, and its linear-VP time. "edm": the sample x0 + sigma
    z itself, and log(sigma) / 4, as in EDM's score networks. The sampler is the same for both. Features were
    trained on linear VP, so "edm" requires a head without features.

    With `noise="none"` it is a discriminator of clean samples, evaluated at the time of noise level 0.
    """

    head: SerializeAsAny[HeadSpec] = ADMEncoder()
    features: Weights | None = None
    fine_tune: Annotated[bool, LATER] = False
    process: Annotated[ProcessName, LATER] = "linear-vp"
    noise: Annotated[NoiseName, LATER] = "linear_vp"

    @model_validator(mode="after")
    def _has_features_to_tune(self) -> Discriminator:
        if self.fine_tune and self.features is None:
            raise ValueError(
                "expected features with fine_tune, the weights of a classifier of noisy samples, found none: "
                "omit fine_tune to train a head from scratch"
            )
        return self

    @model_validator(mode="after")
    def _fits_process(self) -> Discriminator:
        check_process(self.process, self.features, self.head)
        if self.process == "edm" and self.noise == "none":
            raise ValueError(
                'expected process="linear-vp" with noise="none", found "edm", whose time input for clean '
                "samples is the logarithm of 0: omit process"
            )
        return self

    @model_validator(mode="after")
    def _one_time(self) -> Discriminator:
        timed = self._timed_head()
        if self.head.time not in ("linear-vp", timed.time):
            raise ValueError(
                f"expected the head's time to be that of its features, {timed.time}, found {self.head.time}"
            )
        return self

    def _timed_head(self) -> HeadSpec:
        """The head with the time that both networks use."""
        if self.features is None:
            return self.head
        below = self.features.step.architecture
        if not isinstance(below, ADMEncoder):
            raise ValueError(
                "expected a classifier of noisy samples (an ADMEncoder) as features, found "
                f"{self.features.step.kind} of {type(below).__name__}"
            )
        return self.head.model_copy(update={"time": below.time})

    def check(self, shape: DataShape) -> None:
        if self.features is not None and isinstance(below := self.features.step.architecture, ADMEncoder):
            below.check(shape)
            shape = below.feature_shape(shape)
        try:
            self.head.check(shape)
        except ValueError as error:
            side = shape.image_size
            of_features = f"; its input is the features' {shape.channels} channels of {side} x {side} pixels"
            raise ValueError(f"{error}{'' if self.features is None else of_features}") from error

    def build(
        self, *, image_size: int, channels: int, num_classes: int, features: nn.Module | None = None
    ) -> nn.Module:
        """Build the discriminator with a fresh head, on the network `features` if there is one.

        `image_size` and `channels` are those of the samples; those of the head follow from the features.
        `num_classes` is 0 for an unconditional head.
        """
        from dgflow.networks.adm.encoder import ADMEncoderModule
        from dgflow.networks.discriminator.module import DiscriminatorModule

        assert features is None or isinstance(features, ADMEncoderModule)
        head = self._timed_head().head(
            image_size=features.feature_size if features else image_size,
            channels=features.feature_channels if features else channels,
            num_classes=num_classes,
        )
        return DiscriminatorModule(features, head, fine_tune=self.fine_tune, process=self.process)

    def assemble(self, shape: DataShape, load: Callable[[str], nn.Module]) -> nn.Module:
        return self.build(**shape._asdict(), features=load("features") if self.features else None)

    def kept(self, network: Any) -> nn.Module:
        """The stored part: the head and, if fine-tuned, the features."""
        return network if self.fine_tune else network.head

    def time_map(self) -> TimeMap:
        if self.process == "edm":
            lowest = EDM_RANGE[0]  # instead of 0, whose logarithm would be the network's input
            return lambda sigma: sigma.where(sigma > 0.0, lowest)
        return self._timed_head().time_map()

    @property
    def time_name(self) -> str:
        return "EDM's noise level" if self.process == "edm" else self._timed_head().time_name

    @property
    def knows_noise(self) -> bool:
        return self.noise != "none"

    @property
    def frozen_features(self) -> Weights | None:
        return None if self.fine_tune else self.features

    def probe_head(self, network: Any, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        import torch

        channels, side = network.features.feature_channels, network.features.feature_size
        features = torch.randn(len(x), channels, side, side, device=x.device, requires_grad=True)
        return network.on_features(features, sigma.float(), labels)


def check_process(process: ProcessName, features: Weights | None, head: HeadSpec) -> None:
    """Raise ValueError if the features or the head cannot take the inputs of a process."""
    if process == "linear-vp":
        return
    if features is not None:
        raise ValueError(
            f'expected process="linear-vp" with features, which are trained on linear-VP noise, found '
            f'"{process}": omit the features, to train the discriminator from scratch'
        )
    if head.time != "linear-vp":
        raise ValueError(
            f'expected the default time of a head with process="{process}", found {head.time}: omit time, '
            "since the head receives log(sigma) / 4"
        )
