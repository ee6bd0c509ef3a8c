"""Kernel distance (KID; Bińkowski et al. 2018): the unbiased squared MMD of two sets of features under (x.y /
D + 1)^3.

Promises: float64, memory of a few blocks of the kernel matrix, bits that do not depend on the number of
    threads, and torch-fidelity's and
clean-fid's subsets index by index, so that each can be measured by another worker. Leaves to others: which
    features these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dgflow.metrics.rows import checked_rows, one_thread


@dataclass(frozen=True)
class KernelDistance:
    """Mean and population standard deviation of the subsets' distances, and these in the order in which the
    subsets were drawn."""

    mean: float
    std: float
    per_subset: tuple[float, ...]

    @classmethod
    def of(cls, per_subset: Sequence[float]) -> KernelDistance:
        """From the distance of every subset, in order.

        `BlockSums.of(j, (distance,))` gathers what several workers measured.
        """
        if not per_subset:
            raise ValueError("a kernel distance needs at least 1 subset, found 0")
        return cls(float(np.mean(per_subset)), float(np.std(per_subset)), tuple(per_subset))


def subset_indices(
    real: int, fake: int, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each subset the indices (of reals [subset_size], of fakes [subset_size]), drawn without replacement
    from `real` and `fake` rows.

    The draws are those of torch-fidelity: one NumPy RandomState of `seed`, first the fakes, then the reals,
    subset after subset. clean-fid draws in the same order. Raises ValueError if a side has fewer rows than
    `subset_size`, or for a number out of range.
    """
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"expected subsets >= 1 and subset_size >= 2, found {subsets} and {subset_size}")
    if subset_size > min(real, fake):
        raise ValueError(
            f"expected at least {subset_size} rows a side, found {real} real and {fake} fake; choose a "
            "smaller subset_size"
        )
    random = np.random.RandomState(seed)
    drawn = []
    for _ in range(subsets):
        of_fake = random.choice(fake, subset_size, replace=False)
        drawn.append((random.choice(real, subset_size, replace=False), of_fake))
    return drawn


def kernel_distance(
    real_ND: np.ndarray, fake_MD: np.ndarray, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> KernelDistance:
    """KID over the subsets of `subset_indices`. Raises ValueError as that and `polynomial_mmd2` do."""
    drawn = subset_indices(len(real_ND), len(fake_MD), subsets, subset_size, seed)
    return KernelDistance.of(
        [polynomial_mmd2(real_ND[of_real], fake_MD[of_fake]) for of_real, of_fake in drawn]
    )


def polynomial_mmd2(real_ND: np.ndarray, fake_MD: np.ndarray, block_size: int = 512) -> float:
    """The unbiased squared MMD over all pairs of rows [N, D] and [M, D], a row never with itself; below 0 is
    possible where it is near 0.

    Gretton et al. 2012, equation 3, with the kernel (x.y / D + 1)^3. Raises ValueError if a row is not
    finite, the widths differ or a side has fewer than 2 rows.
    """
    real, fake = (
        torch.from_numpy(checked_rows(rows, what).astype(np.float64))
        for rows, what in ((real_ND, "real"), (fake_MD, "fake"))
    )
    if real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"expected features of one dimension, found {real.shape[1]} and {fake.shape[1]}; take one "
            "layer of one network"
        )
    if min(len(real), len(fake)) < 2:
        raise ValueError(
            f"a kernel distance needs at least 2 rows a side, found {len(real)} real and {len(fake)} fake"
        )
    with one_thread():
        within = _sum_within(real, block_size) / (len(real) * (len(real) - 1)) + _sum_within(
            fake, block_size
        ) / (len(fake) * (len(fake) - 1))
        across = sum(
            _kernel(a, b).sum().item() for a in real.split(block_size) for b in fake.split(block_size)
        )
    return within - 2 * across / (len(real) * len(fake))


def _sum_within(rows_ND: torch.Tensor, block_size: int) -> float:
    """The sum of the kernel over the ordered pairs of different rows: each block above the diagonal counts
    for the one below."""
    total, blocks = 0.0, rows_ND.split(block_size)
    for i, block in enumerate(blocks):
        total += _kernel(block, block).fill_diagonal_(0).sum().item()
        total += 2 * sum(_kernel(block, later).sum().item() for later in blocks[i + 1 :])
    return total


def _kernel(a_ND: torch.Tensor, b_MD: torch.Tensor) -> torch.Tensor:
    k_NM = (a_ND @ b_MD.T).div_(a_ND.shape[1]).add_(1)
    return k_NM.square().mul_(k_NM)
