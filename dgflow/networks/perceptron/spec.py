"""Spec of the perceptron, for recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from dgflow.networks.perceptron.sizes import check_units
from dgflow.networks.roles import HeadSpec
from dgflow.networks.times import time_scale
from dgflow.specs.network import DataShape

if TYPE_CHECKING:
    from torch import nn


class Perceptron(HeadSpec):
    """A perceptron of `layers` layers of `width` smooth units, for discriminators of small samples of any
    shape, such as data in the plane (Kim et al. 2023, section 5.1).

    A sample is flattened, so its spatial structure is not used. The embedded time and class, if any, scale
    and shift the first layer.
    """

    width: int = 256
    layers: int = 4

    def check(self, shape: DataShape) -> None:
        del shape  # any shape
        check_units(self.width, self.layers)

    def head(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        from dgflow.networks.perceptron.module import PerceptronModule

        return PerceptronModule(
            image_size=image_size,
            in_channels=channels,
            num_classes=num_classes or None,
            time_scale=time_scale(self.time),
            **self.model_dump(exclude={"time"}),
        )

    def toy(self, factor: int) -> Self:
        del factor
        return self.model_copy(update={"width": min(16, self.width), "layers": min(2, self.layers)})
