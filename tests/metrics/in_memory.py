"""Metrics of arrays in memory, by one pass: what the passes over stored features have to give."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from dgflow.metrics import precision_recall as streamed
from dgflow.metrics.frechet import Gaussian, Moments
from dgflow.metrics.frechet_error import FrechetInfluence, InfluenceAccumulator
from dgflow.metrics.inception_score import SPLIT_SIZE, InceptionScore, InceptionScoreAccumulator
from dgflow.metrics.kernel_distance import polynomial_mmd2, subset_indices
from dgflow.metrics.precision_recall import PrecisionRecall, inside_any_ball_of, squared_radii_of
from dgflow.metrics.protocols import Distances
from dgflow.metrics.rows import checked_rows

QUERY_ROWS = 5000  # rows per block of queries


def frechet_standard_error(features_ND: np.ndarray, reference: Moments | Gaussian) -> float:
    """Standard error of `frechet_distance(Moments.of(features), reference)`."""
    accumulator = InfluenceAccumulator(FrechetInfluence.of(Moments.of(features_ND), reference))
    accumulator.add(features_ND)
    return accumulator.sums().total().standard_error


def inception_score(logits_NK: np.ndarray, split_size: int = SPLIT_SIZE) -> InceptionScore:
    """Inception score over the contiguous splits [0, split_size), [split_size, 2 split_size), ..."""
    accumulator = InceptionScoreAccumulator(split_size=split_size)
    accumulator.add(logits_NK)
    return InceptionScore.of(accumulator.sums().total())


class KernelDistance(NamedTuple):
    """Mean and population standard deviation of the subsets' distances, and these in drawing order."""

    mean: float
    std: float
    per_subset: tuple[float, ...]


def kernel_distance(
    real_ND: np.ndarray, fake_MD: np.ndarray, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> KernelDistance:
    """KID over the subsets of `subset_indices`."""
    pairs = subset_indices(len(real_ND), len(fake_MD), subsets, subset_size, seed)
    per_subset = [polynomial_mmd2(real_ND[reals], fake_MD[fakes]) for reals, fakes in pairs]
    return KernelDistance(float(np.mean(per_subset)), float(np.std(per_subset)), tuple(per_subset))


def precision_recall(
    real_ND: np.ndarray,
    fake_MD: np.ndarray,
    k: int = 3,
    *,
    distances: Distances = "exact",
    device: torch.device | str = "cpu",
) -> PrecisionRecall:
    """Precision and recall of the fakes."""
    real = checked_rows(real_ND, "real features")
    fake = checked_rows(fake_MD, "fake features", width=real.shape[1])
    real_radii, fake_radii = (
        squared_radii(rows, k, distances=distances, device=device) for rows in (real, fake)
    )
    return PrecisionRecall(
        precision=float(inside_any_ball(fake, real, real_radii, distances=distances, device=device).mean()),
        recall=float(inside_any_ball(real, fake, fake_radii, distances=distances, device=device).mean()),
    )


def squared_radii(
    features_ND: np.ndarray, k: int = 3, *, distances: Distances = "exact", device: torch.device | str = "cpu"
) -> np.ndarray:
    """Squared distance [N], float64, of each row to its k-th nearest other row."""
    features = checked_rows(features_ND, "features")
    blocks = _query_blocks(features, distances)
    return np.concatenate(
        [squared_radii_of(block, [features], k, distances=distances, device=device) for block in blocks]
    )


def inside_any_ball(
    queries_QD: np.ndarray,
    centres_CD: np.ndarray,
    squared_radii_C: np.ndarray,
    *,
    distances: Distances = "exact",
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """True [Q] for each query that lies in a closed ball around some centre."""
    blocks = _query_blocks(checked_rows(queries_QD, "queries"), distances)
    balls = [(centres_CD, squared_radii_C)]
    return np.concatenate(
        [inside_any_ball_of(block, balls, distances=distances, device=device) for block in blocks]
    )


def _query_blocks(rows_ND: np.ndarray, distances: Distances) -> list[np.ndarray]:
    size = streamed.BLOCK_ROWS if distances == "openai-float16" else QUERY_ROWS
    return [rows_ND[start : start + size] for start in range(0, max(len(rows_ND), 1), size)]
