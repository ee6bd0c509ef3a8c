"""The toy network as recipes name it."""

from __future__ import annotations

from typing import ClassVar

from dgflow.networks.roles import ScoreNetworkSpec


class ToyNetwork(ScoreNetworkSpec):
    """Two 3x3 convolutions and a bias per class, which predict the clean image."""

    formats: ClassVar[tuple[str, ...]] = ("toy_checkpoint",)

    width: int = 24

    def build(self, *, image_size, channels, num_classes):
        from networks.toy_family.module import ToyNetworkModule

        del image_size
        return ToyNetworkModule(channels, self.width, num_classes)

    def score_model(self, network):
        from dgflow.diffusion.score_model import ScoreModel

        return ScoreModel(network, sigma_range=(0.002, 80.0))

    def toy(self, factor):
        del factor
        return self.model_copy(update={"width": 4})

    def read_published(self, file, format, network, shape, source):
        from networks.toy_family.file import read_toy_checkpoint

        return read_toy_checkpoint(file, source)

    def write_published(self, format, network, shape, others):
        from networks.toy_family.file import write_toy_checkpoint

        return write_toy_checkpoint(network.state_dict())
