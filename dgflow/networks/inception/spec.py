"""The Inception network as recipes name it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dgflow.specs.spec import Spec

if TYPE_CHECKING:
    from torch import nn


class InceptionV3(Spec):
    """The 2015-12-05 Inception network that FID is defined by.

    It judges images and neither samples nor guides.
    """

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        from dgflow.networks.inception.module import InceptionV3 as Network

        if (image_size, channels, num_classes) != (299, 3, 1008):
            raise ValueError(
                f"Inception takes 299 pixels and 3 channels to 1008 classes: found {image_size}, "
                f"{channels} and {num_classes}"
            )
        return Network()
