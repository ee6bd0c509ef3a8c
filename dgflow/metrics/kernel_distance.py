"""Kernel distance (KID; Bińkowski et al. 2018): unbiased squared MMD of features under (x.y / D + 1)^3.

Computed in float64 by one thread, so the bits depend only on the features. The subsets are given by their
indices, which are those of torch-fidelity and clean-fid, so that different workers can measure them.
"""

from __future__ import annotations

import numpy as np
import torch

from dgflow.metrics.rows import check_widths, checked_rows, one_thread


def subset_indices(
    real: int, fake: int, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(indices of reals [subset_size], indices of fakes [subset_size]) of each subset, drawn without
    replacement.

    The draws are torch-fidelity's, in the order of clean-fid: one NumPy RandomState of `seed` draws first the
    fakes, then the reals of each subset.

    Args:
        real, fake: the number of rows of each side.

    Raises:
        ValueError: a side has fewer rows than `subset_size`, or a number is out of range.
    """
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"expected subsets >= 1 and subset_size >= 2, found {subsets} and {subset_size}")
    if subset_size > min(real, fake):
        raise ValueError(
            f"expected at least {subset_size} rows per side, found {real} real and {fake} fake; choose a "
            "smaller subset_size"
        )
    random = np.random.RandomState(seed)
    pairs = []
    for _ in range(subsets):
        fakes = random.choice(fake, subset_size, replace=False)
        pairs.append((random.choice(real, subset_size, replace=False), fakes))
    return pairs


def polynomial_mmd2(real_ND: np.ndarray, fake_MD: np.ndarray, block_size: int = 512) -> float:
    """Unbiased squared MMD of rows [N, D] and [M, D] (Gretton et al. 2012, equation 3); it may be below 0.

    Only a few blocks of the kernel matrix are in memory. Raises ValueError if a row is not finite, the widths
    differ, or a side has fewer than 2 rows.
    """
    real = torch.from_numpy(checked_rows(real_ND, "real").astype(np.float64))
    fake = torch.from_numpy(checked_rows(fake_MD, "fake").astype(np.float64))
    check_widths(real.shape[1], fake.shape[1])
    n, m = len(real), len(fake)
    if min(n, m) < 2:
        raise ValueError(f"a kernel distance needs at least 2 rows per side, found {n} real and {m} fake")
    with one_thread():
        within_real = _sum_within(real, block_size) / (n * (n - 1))
        within_fake = _sum_within(fake, block_size) / (m * (m - 1))
        pairs = ((a, b) for a in real.split(block_size) for b in fake.split(block_size))
        across = sum(_kernel(a, b).sum().item() for a, b in pairs)
    return within_real + within_fake - 2 * across / (n * m)


def _sum_within(rows_ND: torch.Tensor, block_size: int) -> float:
    """The sum of the kernel over ordered pairs of different rows."""
    total, blocks = 0.0, rows_ND.split(block_size)
    for i, block in enumerate(blocks):
        total += _kernel(block, block).fill_diagonal_(0).sum().item()
        total += 2 * sum(_kernel(block, later).sum().item() for later in blocks[i + 1 :])
    return total


def _kernel(a_ND: torch.Tensor, b_MD: torch.Tensor) -> torch.Tensor:
    k_NM = (a_ND @ b_MD.T).div_(a_ND.shape[1]).add_(1)
    return k_NM.square().mul_(k_NM)
