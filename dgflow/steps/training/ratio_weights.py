"""The weights of a `RatioWeighting`, for real images as a training draws them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from dgflow.diffusion.acceleration import prepared
from dgflow.diffusion.discriminator_guidance import LogRatio, log_ratio_at
from dgflow.diffusion.divergences import divergence_weight
from dgflow.diffusion.times import TimeMap, tau_from_sigma
from dgflow.diffusion.weighting_specs import RatioWeighting
from dgflow.networks.roles import GuideSpec
from dgflow.specs.bound import Bound


@dataclass(frozen=True)
class RatioWeights:
    """Weights [B] of noisy real images; `conditional`: the discriminator receives the labels."""

    weighting: RatioWeighting
    discriminator: LogRatio
    time: TimeMap
    conditional: bool

    @classmethod
    def loaded(cls, weighting: RatioWeighting, inputs: Bound, field: str, device: torch.device) -> Self:
        """Loads the discriminator of the field `field` onto the device."""
        step = weighting.discriminator.step
        assert isinstance(step.architecture, GuideSpec)
        network = prepared(inputs.network(f"{field}.discriminator"), device=device)
        return cls(weighting, network, step.architecture.time_map(), step.classes > 0)

    def of(self, x: Tensor, sigma_B: Tensor, labels: Tensor) -> Tensor:
        """Returns float32 [B], for x = x0 + sigma * z [B, ...] with classes int64 [B]."""
        seen = labels if self.conditional else None
        log_ratio = log_ratio_at(self.discriminator, x, sigma_B, seen, time=self.time)
        weight_B = divergence_weight(log_ratio, self.weighting.divergence, self.weighting.largest)
        tau_B = tau_from_sigma(sigma_B.double())
        high = self.weighting.tau_max if self.weighting.tau_max < 1.0 else torch.inf
        inside = (tau_B >= self.weighting.tau_min) & (tau_B <= high)
        return torch.where(inside, weight_B, 1.0).float()
