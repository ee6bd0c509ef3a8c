"""Record the log-ratio of a discriminator along a sampler's path, by a guidance term without a gradient."""

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
    """A guidance term without a gradient, for the end of a list of terms. It records the log-ratio at the
    first evaluation of every step, and leaves all samples bit-identical.

    With an adaptive solver, the records are the stages of all attempts, including rejected attempts. They lie
    on the path within the solver's tolerance.

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
        """(noise levels, log-ratios) of each sample, both [B, ranges]: for each range between two increasing
        `edges`, the record nearest to its middle in log sigma; NaN if there is none.
        """
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
