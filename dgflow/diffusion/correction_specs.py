"""Specs of corrections of the denoised image, for a recipe's `guidance`: a second network, and epsilon
scaling. They act in the order of the list, before any gradient term.
"""

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
    """Guidance by a second network: extrapolation from its image to the score network's, D_other + weight *
    (D - D_other).

    `network` determines the method: a smaller or less trained network gives autoguidance (Karras et al.
    2024); a copy trained further on its own samples gives SIMS (Alemohammad et al. 2024), whose w is weight -
    1; a network without classes gives classifier-free guidance.

    A range of noise levels gives guidance in an interval (Kynkäänniemi et al. 2024): a step that begins in
    the range is guided in both of its evaluations. An adaptive solver (RK45) and a likelihood have no such
    steps, and are guided at the levels within the range. Outside the range `network` is not evaluated.

    `network` receives the sample's class if it has classes. With `without_class` it receives its null class
    instead (DiT): with the weights of the score network, this is classifier-free guidance of all channels in
    a range of noise levels.
    """

    role: ClassVar[str] = "network"

    network: Weights
    without_class: bool = False

    @property
    def guides(self) -> tuple[Weights, ...]:
        return (self.network,)

    @property
    def window(self) -> tuple[float, float]:
        """The range `levels` in linear-VP time."""
        low, high = (LINEAR_VP.time(level) if level < math.inf else math.inf for level in self.levels)
        return low, high

    def build(self, model: ScoreModel) -> NetworkCorrection:
        """Build the correction with a loaded network."""
        from dgflow.diffusion.corrections import NetworkCorrection

        return NetworkCorrection(model.of_null_class() if self.without_class else model, self)


class EpsilonScaling(ScalingSettings):
    """Epsilon scaling (Ning et al. 2023), with the settings of `ScalingSettings`. List it before a
    `NetworkGuidance`, whose network is not scaled.
    """

    role: ClassVar[str] = "factor"  # a field without networks, so no network is evaluated
    guides: ClassVar[tuple[Weights, ...]] = ()
    window: ClassVar[tuple[float, float]] = (math.inf, 0.0)

    def build(self) -> NoiseScaling:
        """Build the correction."""
        from dgflow.diffusion.corrections import NoiseScaling

        return NoiseScaling(self)
