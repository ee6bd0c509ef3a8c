"""Energy distance between samples in the plane and a known Gaussian mixture (Székely and Rizzo 2013).

2 E|X - Y| - E|X - X'| - E|Y - Y'| is zero only for equal distributions. The terms of the mixture have a
closed form (the mean of Rice's distribution), so no second set of samples adds noise. Computed in float64 by
one thread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dgflow.metrics.rows import one_thread

BLOCK_ROWS = 1_000  # rows of the distance matrix in memory at a time


def energy_distance(
    samples: np.ndarray, means: Sequence[Sequence[float]], stds: Sequence[float], weights: Sequence[float]
) -> float:
    """The energy distance of samples [N, 2] to a mixture of isotropic Gaussians, in units of the data.

    The estimate is unbiased, so it can be slightly negative for samples of the mixture itself.

    Raises ValueError for fewer than two samples, or samples that are not finite points of the plane.
    """
    points = torch.from_numpy(np.asarray(samples, dtype=np.float64))
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2 or not bool(points.isfinite().all()):
        raise ValueError(
            f"expected two or more finite points of the plane, [N, 2], found {list(points.shape)}"
            f"{'' if bool(points.isfinite().all()) else ' with NaN or infinity'}"
        )
    centres, widths, shares = (torch.tensor(each, dtype=torch.float64) for each in (means, stds, weights))
    with one_thread():
        to_data = (_mean_distance((points[:, None] - centres).norm(dim=2), widths) * shares).sum(1).mean()
        apart = _mean_distance(
            (centres[:, None] - centres).norm(dim=2), torch.hypot(widths[:, None], widths[None])
        )
        within = (shares[:, None] * shares * apart).sum()
        return float(2 * to_data - _mean_pair_distance(points) - within)


def _mean_distance(distance: Tensor, std: Tensor) -> Tensor:
    """E|z| of z ~ N(m, std^2 I) in the plane, with |m| = `distance`: the mean of Rice's distribution."""
    half = distance.square() / (4 * std.square())
    bessel = (1 + 2 * half) * torch.special.i0e(half) + 2 * half * torch.special.i1e(half)
    return std * math.sqrt(math.pi / 2) * bessel


def _mean_pair_distance(points: Tensor) -> Tensor:
    """The mean distance over all pairs of different samples."""
    total = points.new_zeros(())
    for start in range(0, len(points), BLOCK_ROWS):
        block = points[start : start + BLOCK_ROWS]
        # Differences rather than products: distances of near points keep their precision.
        total += torch.cdist(block, points, compute_mode="donot_use_mm_for_euclid_dist").sum()
    return total / (len(points) * (len(points) - 1))
