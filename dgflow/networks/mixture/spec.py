"""Networks with closed-form outputs: the exact score network of a Gaussian mixture, and the exact
discriminator of two mixtures. They are the ground truth for trained networks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import model_validator

from dgflow.diffusion.mixture_specs import GaussianMixture
from dgflow.networks.roles import DiscriminatorSpec, ScoreNetworkSpec
from dgflow.specs.network import DataShape

if TYPE_CHECKING:
    from torch import nn

    from dgflow.diffusion.score_model import ScoreModel
    from dgflow.diffusion.times import TimeMap


def data_shape(mixture: GaussianMixture) -> DataShape:
    """The data shape of a mixture's points: one pixel, with a channel per coordinate."""
    return DataShape(image_size=1, channels=mixture.dimensions, num_classes=0)


class MixtureScore(ScoreNetworkSpec):
    """The exact score of a Gaussian mixture at every noise level; no parameters."""

    gives_latents: ClassVar[bool] = True  # unlike images, points are unbounded

    mixture: GaussianMixture

    @property
    def data_shape(self) -> DataShape:
        return data_shape(self.mixture)

    def check(self, shape: DataShape) -> None:
        _check_values(self.mixture, shape)

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        from dgflow.networks.mixture.module import MixtureDenoiser

        _check_values(self.mixture, DataShape(image_size, channels, num_classes))
        return MixtureDenoiser(self.mixture)

    def score_model(self, network: Any) -> ScoreModel:
        from dgflow.diffusion.score_model import ScoreModel

        return ScoreModel(lambda x, sigma, _: network(x, sigma), latent=True)


class MixtureRatio(DiscriminatorSpec):
    """The exact log-ratio of two Gaussian mixtures, `real` to `model`, at every noise level; no
    parameters."""

    real: GaussianMixture
    model: GaussianMixture

    @model_validator(mode="after")
    def _fits(self) -> MixtureRatio:
        if self.real.dimensions != self.model.dimensions:
            raise ValueError(
                "expected two mixtures with the same number of coordinates, found "
                f"{self.real.dimensions} and {self.model.dimensions}"
            )
        return self

    @property
    def data_shape(self) -> DataShape:
        return data_shape(self.real)

    def check(self, shape: DataShape) -> None:
        _check_values(self.real, shape)

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        from dgflow.networks.mixture.module import MixtureLogRatio

        _check_values(self.real, DataShape(image_size, channels, num_classes))
        return MixtureLogRatio(self.real, self.model)

    def time_map(self) -> TimeMap:
        """The noise level itself."""
        return lambda sigma: sigma


def _check_values(mixture: GaussianMixture, shape: DataShape) -> None:
    if shape.values != mixture.dimensions:
        raise ValueError(
            f"expected points of the mixture's {mixture.dimensions} coordinates, found data of "
            f"{shape.values} values ({shape.channels} channels of {shape.image_size} x {shape.image_size} "
            "pixels)"
        )
