"""Compute the thresholds of rejection from log-ratios of a sampler's own samples along their paths."""

from __future__ import annotations

from functools import partial
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dgflow.diffusion.paths import Path
from dgflow.diffusion.selection.run import Draw, LogRatioAt


class Thresholds(NamedTuple):
    """Thresholds by position, see `rejection.Rule`: for log-ratios, and for their changes from the previous
    position. Both are 0 at positions that were not evaluated.
    """

    again: list[float]
    first: list[float]

    @classmethod
    def of(cls, log_ratios: np.ndarray, quantile: float, *, floor: bool = True) -> Thresholds:
        """Quantiles (linear between values) of log-ratios [samples, positions]; NaN marks positions that were
        not evaluated, whose log-ratio counts as 0.

        floor: raise thresholds below 0 to 0, since they are thresholds of a ratio whose mean is 1.
        """
        ratios = np.nan_to_num(log_ratios.astype(np.float64))
        changes = np.diff(ratios, axis=1, prepend=ratios[:, :1])
        tables = [np.quantile(values, quantile, axis=0) for values in (ratios, changes)]
        return cls(*((np.maximum(0.0, table) if floor else table).tolist() for table in tables))


@torch.no_grad()
def log_ratios_along(path: Path, draw: Draw, log_ratio: LogRatioAt, *, only_at_end: bool = False) -> Tensor:
    """The log-ratios [B, positions] of samples along a path; NaN before its end with `only_at_end`."""
    state, end = path.begin(draw.latents), len(path.levels) - 1
    before = [0, *accumulate(path.draws)]
    ratios = list[Tensor]()
    for position, level in enumerate(path.levels):
        sigma_B = state.x.new_full((len(state.x),), level)
        if only_at_end and position < end:
            ratios.append(torch.full_like(sigma_B, torch.nan))
        else:
            ratios.append(log_ratio(state.x, sigma_B, draw.asked))
        if position < end:
            noise = partial(_draw_after, draw, before[position])
            state = path.move(state, [position] * len(state.x), draw.asked, noise)
    return torch.stack(ratios, dim=1)


def _draw_after(draw: Draw, before: int, number: int) -> Tensor:
    return draw.noise(before + number)
