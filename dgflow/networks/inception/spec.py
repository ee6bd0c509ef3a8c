"""The Inception network as recipes name it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from dgflow.networks.roles import FeatureNetworkSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

WIDTHS = {"features": 2048, "spatial": 2023, "logits": 1008}
"""Of the columns that it gives: for FID, sFID and the Inception score."""


class InceptionV3(FeatureNetworkSpec):
    """The 2015-12-05 Inception network that FID is defined by.

    It judges images and neither samples nor guides.
    """

    formats: ClassVar[tuple[str, ...]] = (
        "inception_pth",
        "inception_graph",
        "inception_torchscript",
        "inception_pickle",
    )
    stays_float32: ClassVar[bool] = True
    takes_front_end: ClassVar[bool] = True

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        from dgflow.networks.inception.module import InceptionV3 as Network

        if (image_size, channels, num_classes) != (299, 3, 1008):
            raise ValueError(
                f"Inception takes 299 pixels and 3 channels to 1008 classes: found {image_size}, "
                f"{channels} and {num_classes}"
            )
        return Network()

    def probe(self, network: nn.Module, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        from dgflow.networks.inception.module import InceptionV3 as Network

        assert isinstance(network, Network)
        # Its forward sets the precision of a device, and meta is none.
        return (network._features if x.is_meta else network)(x).pooled

    def judge(self, network: nn.Module) -> Callable[[Tensor], dict[str, Tensor]]:
        from dgflow.networks.inception.module import InceptionV3 as Network
        from dgflow.networks.inception.module import accelerated

        assert isinstance(network, Network)
        fast = accelerated(network)

        def judged(images: Tensor) -> dict[str, Tensor]:
            found = fast(images)
            return {"features": found.pooled, "spatial": found.spatial, "logits": found.logits}

        return judged

    def feature_widths(self, num_classes: int) -> tuple[int, ...]:
        del num_classes
        return tuple(WIDTHS.values())

    def fill(self, network: nn.Module) -> None:
        """Random weights that keep the size of features through its many layers."""
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)
