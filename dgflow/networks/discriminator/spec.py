"""The discriminator as recipes name it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import model_validator

from dgflow.networks.adm.spec import ADMEncoder
from dgflow.networks.adm.times import TimeName
from dgflow.specs.spec import Spec
from dgflow.specs.step import NetworkStep, Weights

if TYPE_CHECKING:
    from torch import nn


class Discriminator(Spec):
    """A head, with one output, on the middle features of a frozen noisy classifier, or on the samples
    themselves.

    With features, the time that both are told is the features' own, and the head's `time` has to be left
    alone.
    """

    head: ADMEncoder = ADMEncoder()
    features: Weights | None = None

    @model_validator(mode="after")
    def _one_time(self) -> Discriminator:
        if self.features is not None and self.head.time not in ("linear-vp", time_of(self.features.step)):
            raise ValueError(
                f"expected the head's time to be that of its features, {time_of(self.features.step)}, "
                f"found {self.head.time}"
            )
        return self

    def build(
        self, features: nn.Module | None, *, image_size: int, in_channels: int, num_classes: int | None
    ) -> nn.Module:
        """The discriminator with a fresh head; size and channels are those of the samples, the head's follow
        from the features."""
        from dgflow.networks.adm.encoder import ADMEncoder as Encoder
        from dgflow.networks.discriminator.module import Discriminator as Network

        assert features is None or isinstance(features, Encoder)
        # One time goes to both, in the unit of the features.
        told = (
            self.head
            if self.features is None
            else self.head.model_copy(update={"time": time_of(self.features.step)})
        )
        head = told.build(
            image_size=features.feature_size if features else image_size,
            in_channels=features.feature_channels if features else in_channels,
            out_channels=1,
            num_classes=num_classes,
        )
        return Network(features, head)


def time_of(step: NetworkStep) -> TimeName:
    """What a classifier or discriminator is told for a noise level: what its frozen features were trained
    with, if it has any."""
    network = getattr(step, "network", None)
    features = network.features if isinstance(network, Discriminator) else getattr(step, "features", None)
    if isinstance(features, Weights):
        return time_of(features.step)
    if isinstance(network, Discriminator):
        return network.head.time
    if not isinstance(network, ADMEncoder):
        raise ValueError(f"expected a classifier or a discriminator (an ADMEncoder), found {step.kind}")
    return network.time
