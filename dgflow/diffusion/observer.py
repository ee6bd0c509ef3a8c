"""The log-ratio of a discriminator along the path of a sampler: a guidance term that only looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dgflow.diffusion.discriminator_guidance import LogRatio, log_ratio_at
from dgflow.diffusion.guidance import Point
from dgflow.diffusion.times import TimeMap, tau_from_sigma


@dataclass
class Observer:
    """A guidance term without a gradient, for the end of a list of terms: it records the log-ratio wherever a
    sampler asks for guidance first in a step, and changes no sample by a bit.

    With an adaptive solver these are the stages of all attempts, rejected ones among them, which lie on the
    path within the solver's tolerance.

    Args:
        discriminator, time: as in `DiscriminatorTerm`.
    """

    discriminator: LogRatio
    time: TimeMap = tau_from_sigma
    _sigmas: list[Tensor] = field(default_factory=list)
    _log_ratios: list[Tensor] = field(default_factory=list)

    def __call__(self, point: Point) -> tuple[None, None]:
        """See `GuidanceTerm`."""
        if point.order == 1:
            log_ratio = log_ratio_at(
                self.discriminator, point.x, point.sigma, point.class_labels, time=self.time
            )
            self._sigmas.append(point.sigma.double())
            self._log_ratios.append(log_ratio.double())
        return None, None

    def at(self, edges: Sequence[float]) -> tuple[Tensor, Tensor]:
        """(noise levels, log-ratios) of each sample, both [B, ranges], NaN where it was not seen: in each
        range between two rising `edges`, those that are nearest to its middle in log sigma."""
        sigmas, log_ratios = torch.stack(self._sigmas), torch.stack(self._log_ratios)  # [evaluations, B]
        ends = torch.tensor(edges, dtype=torch.float64, device=sigmas.device)
        low, high = ends[:-1, None, None], ends[1:, None, None]
        distance = (sigmas / (low * high).sqrt()).log().abs()  # [ranges, evaluations, B]
        distance = distance.where((sigmas >= low) & (sigmas <= high), torch.inf)
        nearest, index = distance.min(dim=1)  # [ranges, B]
        found = (
            values.gather(0, index).where(nearest.isfinite(), torch.nan) for values in (sigmas, log_ratios)
        )
        return tuple(value.T for value in found)  # type: ignore[return-value]
