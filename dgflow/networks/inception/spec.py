"""Spec of the Inception network, for recipes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from dgflow.networks.roles import FeatureNetworkSpec
from dgflow.specs.network import DataShape, NetworkSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dgflow.weights.weight_file import File

WIDTHS = {"features": 2048, "spatial": 2023, "logits": 1008}
"""Widths of the output columns: for FID, sFID and the Inception score."""


SUFFIXES = {
    ".pth": "inception_pth",
    ".pt": "inception_torchscript",
    ".pb": "inception_graph",
    ".pkl": "inception_pickle",
}
"""Formats by suffix of the published files' names."""


class InceptionV3(FeatureNetworkSpec):
    """The 2015-12-05 Inception network that FID is defined by.

    The network evaluates images and neither samples nor guides.
    """

    formats: ClassVar[tuple[str, ...]] = tuple(SUFFIXES.values())
    read_only: ClassVar[tuple[str, ...]] = ("inception_torchscript", "inception_pickle")
    stays_float32: ClassVar[bool] = True
    fixed_size: ClassVar[bool] = True
    takes_front_end: ClassVar[bool] = True

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        from dgflow.networks.inception.module import InceptionV3Module

        if (image_size, channels, num_classes) != (299, 3, 1008):
            raise ValueError(
                f"Inception takes 299 pixels and 3 channels to 1008 classes: found {image_size}, "
                f"{channels} and {num_classes}"
            )
        return InceptionV3Module()

    def probe(self, network: Any, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        # The forward pass sets a device's precision, which the meta device does not have.
        return (network._features if x.is_meta else network)(x).pooled

    def judge(self, network: Any) -> Callable[[Tensor], dict[str, Tensor]]:
        from dgflow.networks.inception.module import InceptionV3Module, accelerated

        assert isinstance(network, InceptionV3Module)
        fast = accelerated(network)

        def judged(images: Tensor) -> dict[str, Tensor]:
            found = fast(images)
            return {"features": found.pooled, "spatial": found.spatial, "logits": found.logits}

        return judged

    def feature_widths(self, num_classes: int) -> tuple[int, ...]:
        del num_classes
        return tuple(WIDTHS.values())

    def fill(self, network: Any) -> None:
        """Random weights that preserve the magnitude of features through the many layers."""
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)

    def read_published(
        self, file: File, format: str, network: Any, shape: DataShape, source: str
    ) -> dict[str, Tensor]:
        from dgflow.networks.inception.graph_file import read_inception_graph
        from dgflow.networks.inception.names import read_inception_pth
        from dgflow.networks.inception.torchscript_file import (
            read_inception_pickle,
            read_inception_torchscript,
        )

        readers = {
            "inception_pth": read_inception_pth,
            "inception_graph": read_inception_graph,
            "inception_torchscript": read_inception_torchscript,
            "inception_pickle": read_inception_pickle,
        }
        return readers[format](file, source=source).tensors

    def write_published(
        self, format: str, network: Any, shape: DataShape, others: Sequence[tuple[NetworkSpec, Any]]
    ) -> bytes:
        from dgflow.networks.inception.graph_file import write_inception_graph
        from dgflow.weights.torch_file import save_torch

        tensors = dict(network.state_dict())
        return write_inception_graph(tensors) if format == "inception_graph" else save_torch(tensors)
