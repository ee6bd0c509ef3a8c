"""Corrections of the denoised image as recipes list them under `guidance`: a second network, and a scaled
prediction of the noise. They act in the order of the list, before the gradient of any term."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from dgflow.diffusion.correction_settings import NetworkSettings, ScalingSettings
from dgflow.diffusion.linear_vp import LINEAR_VP
from dgflow.specs.step import Weights

if TYPE_CHECKING:
    from dgflow.diffusion.corrections import NetworkCorrection, NoiseScaling
    from dgflow.diffusion.score_model import ScoreModel


class NetworkGuidance(NetworkSettings):
    """The score network, taken away from another one: D_other + weight * (D - D_other).

    What `network` is makes the method: a smaller or less trained one, autoguidance (Karras et al. 2024); a
    copy that was trained further on its own samples, SIMS (Alemohammad et al. 2024), whose w is weight - 1;
    one without classes, classifier-free guidance. Within a range of noise levels it is the guidance interval
    (Kynkäänniemi et al. 2024): a step is guided, in both of its evaluations, where it begins in the range. An
    adaptive solver (RK45) and a likelihood have no such steps, and are guided at the levels themselves.
    Elsewhere `network` is not evaluated.

    `network` is told the sample's class if it knows classes. `without_class` asks it for its null class
    instead (DiT): with the weights of the score network itself, this is classifier-free guidance of all
    channels in a range of noise levels.
    """

    role: ClassVar[str] = "network"

    network: Weights
    without_class: bool = False

    @property
    def guides(self) -> tuple[Weights, ...]:
        return (self.network,)

    @property
    def window(self) -> tuple[float, float]:
        """`levels` in linear-VP time."""
        low, high = (LINEAR_VP.time(level) if level < math.inf else math.inf for level in self.levels)
        return low, high

    def build(self, model: ScoreModel) -> NetworkCorrection:
        """The correction by a loaded network."""
        from dgflow.diffusion.corrections import NetworkCorrection

        return NetworkCorrection(model.of_null_class() if self.without_class else model, self)


class EpsilonScaling(ScalingSettings):
    """Epsilon scaling (Ning et al. 2023); its settings are those of `ScalingSettings`. List it before a
    `NetworkGuidance`, whose network is not scaled."""

    role: ClassVar[str] = "factor"  # a field without networks, so that none is asked at any time
    guides: ClassVar[tuple[Weights, ...]] = ()
    window: ClassVar[tuple[float, float]] = (math.inf, 0.0)

    def build(self) -> NoiseScaling:
        """The correction."""
        from dgflow.diffusion.corrections import NoiseScaling

        return NoiseScaling(self)
