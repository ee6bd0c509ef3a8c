"""Corrections of the denoised image: by a second network (autoguidance, SIMS, guidance in an interval), and
by epsilon scaling.

Both compute in float64 around the networks, act per sample, and are differentiable in x if x requires
gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from dgflow.diffusion.correction_settings import NetworkSettings, ScalingSettings
from dgflow.diffusion.guidance import ANYWHERE, Bounds, Guide, Point
from dgflow.diffusion.score_model import ScoreModel, first_outside
from dgflow.diffusion.times import per_sample, tau_from_sigma


@dataclass(frozen=True)
class NetworkCorrection:
    """other + weight * (denoised - other), with `other` the image of a second network (Karras et al. 2024,
    "Guiding a Diffusion Model with a Bad Version of Itself", equation 3), for samples whose step begins at a
    noise level in the range of `settings`.

    Args:
        model: the second network, evaluated at the sampler's x, noise levels and labels.
        settings: weight and range. The network is not evaluated if no sample of a batch can be in the range,
            or if the weight is 1.
    """

    model: ScoreModel
    settings: NetworkSettings

    @property
    def tau_edges(self) -> tuple[float, ...]:
        """Times at which the corrected image jumps."""
        levels = (level for level in self.settings.levels if 0.0 < level < math.inf)
        return *map(tau_from_sigma, levels), *self.model.tau_edges

    def acts(self, order: int, sigmas: Bounds, began: Bounds) -> bool:
        """See `guidance.GuidanceTerm`."""
        del order, sigmas
        low, high = self.settings.levels
        return began[1] >= low and began[0] <= high

    def correct(self, point: Point) -> Tensor | None:
        """See `guidance.Correction`.

        Raises ValueError if the step leaves the network's range of noise levels, except for a batch whose
        samples are at different positions.
        """
        began_B, began = point.began
        if not self.acts(point.order, point.sigma_bounds, began):
            return None
        self.check(point.sigma_bounds, began)
        low, high = self.settings.levels
        if self._is_within(began):
            return self._corrected(point, point.sigma)
        # Samples outside are evaluated at levels within the network's range, since the network may overflow
        # elsewhere. torch.where discards their results.
        inside_B = (began_B >= low) & (began_B <= high)
        sigma_B = torch.where(inside_B, point.sigma, point.sigma.clamp(*self.model.sigma_range))
        denoised, corrected = cast("Tensor", point.denoised).double(), self._corrected(point, sigma_B)
        return torch.where(per_sample(inside_B, corrected), corrected, denoised)

    def _corrected(self, point: Point, sigma_B: Tensor) -> Tensor:
        other = self.model.denoiser(point.x, sigma_B, point.class_labels).double()
        return other + self.settings.weight * (cast("Tensor", point.denoised).double() - other)

    def _is_within(self, began: Bounds) -> bool:
        low, high = self.settings.levels
        return low <= began[0] and began[1] <= high

    def check(self, sigmas: Bounds, began: Bounds) -> None:
        """Raise ValueError if a guided step has noise levels outside the network's own range.

        Only batches whose samples all begin their step within the range of `settings` are checked.
        """
        if sigmas == ANYWHERE or not self._is_within(began):
            return
        (low, high), sigmas = self.model.sigma_range, (min(began[0], sigmas[0]), began[1])
        if first_outside(sigmas, low, high) is not None:
            raise ValueError(
                f"expected a second network for the noise levels of the steps that it guides, "
                f"{min(sigmas):.6g} to {max(sigmas):.6g}, found one for {low:.6g} to {high:.6g}: narrow "
                "sigma_min and sigma_max of the guidance, or of the sampler"
            )


@dataclass(frozen=True)
class NoiseScaling:
    """x - (x - denoised) / divisor: the predicted noise (x - denoised) / sigma, divided (Ning et al. 2023,
    "Elucidating the Exposure Bias in Diffusion Models")."""

    settings: ScalingSettings
    is_free: ClassVar[bool] = True

    def correct(self, point: Point) -> Tensor | None:
        """See `guidance.Correction`; None if the divisor is 1 throughout."""
        return self.scaled(point.x, point.sigma, cast("Tensor", point.denoised))

    def scaled(self, x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor | None:
        """The image of the scaled noise, float64; None if the divisor is 1 throughout."""
        settings = self.settings
        if (settings.factor, settings.slope) == (1.0, 0.0):
            return None
        x, sigma = x.double(), sigma.double()
        divisor_B = settings.factor + settings.slope * tau_from_sigma(sigma)
        return x - (x - denoised.double()) / per_sample(divisor_B, x)


def scaled_again(guidance: Sequence[Guide], x: Tensor, sigma: Tensor, guided: Tensor) -> Tensor:
    """The guided image of a DDIM step as in ADM-ES's code: the guided noise is divided again by every scaling
    with `twice`.
    """
    for entry in guidance:
        if isinstance(entry, NoiseScaling) and entry.settings.twice:
            again = entry.scaled(x, sigma, guided)
            guided = guided if again is None else again
    return guided
