"""Inception score (Salimans et al. 2016) from logits, by contiguous splits, in float64.

The log-softmax stays finite where probabilities underflow. In the published protocol, logits have 1008
classes and no bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, gcd

import numpy as np
from scipy.special import log_softmax, xlogy

from dgflow.metrics.rows import BLOCK_SIZE, BlockAccumulator

SPLIT_SIZE = 5000  # as in OpenAI's evaluator; 50,000 samples make 10 splits
SHUFFLE_SEED = 2020  # torch-fidelity's seed


@dataclass(frozen=True, eq=False)
class SplitSums:
    """Sums over n rows of one split: of p [K], of p log p over the classes, and of p^2 [K], in float64."""

    n: int
    sum_p: np.ndarray
    sum_p_log_p: float
    sum_p_squared: np.ndarray

    @classmethod
    def of(cls, logits_NK: np.ndarray) -> SplitSums:
        """Sums over all rows of finite logits."""
        log_p_NK = log_softmax(np.asarray(logits_NK, dtype=np.float64), axis=1)
        p_NK = np.exp(log_p_NK)
        squares_K = np.square(p_NK).sum(axis=0)
        return cls(len(p_NK), p_NK.sum(axis=0), float((p_NK * log_p_NK).sum()), squares_K)

    def __add__(self, other: SplitSums) -> SplitSums:
        """The sums over the rows of both, which must belong to the same split."""
        return SplitSums(
            self.n + other.n,
            self.sum_p + other.sum_p,
            self.sum_p_log_p + other.sum_p_log_p,
            self.sum_p_squared + other.sum_p_squared,
        )

    @property
    def score(self) -> float:
        """exp of the mean KL divergence of p from the split's mean p; in [1, K] up to rounding."""
        mean_p = self.sum_p / self.n
        return exp(self.sum_p_log_p / self.n - float(xlogy(mean_p, mean_p).sum()))


@dataclass(frozen=True, eq=False)
class ScoreSums:
    """The sums of each split, by its number `index // split_size`."""

    splits: Mapping[int, SplitSums]

    def __add__(self, other: ScoreSums) -> ScoreSums:
        splits = dict(self.splits)
        for split, sums in other.splits.items():
            splits[split] = splits[split] + sums if split in splits else sums
        return ScoreSums(splits)


@dataclass(frozen=True)
class InceptionScore:
    """Mean and population standard deviation of the splits' scores, and the scores in index order."""

    mean: float
    std: float
    per_split: tuple[float, ...]

    @classmethod
    def of(cls, sums: ScoreSums) -> InceptionScore:
        """The score from all splits; a shorter last split counts like the others, as published."""
        per_split = tuple(sums.splits[split].score for split in sorted(sums.splits))
        return cls(float(np.mean(per_split)), float(np.std(per_split)), per_split)


def shuffled_positions(n: int, seed: int = SHUFFLE_SEED) -> np.ndarray:
    """The position [n] of each row in the random order in which torch-fidelity puts n rows."""
    return np.argsort(np.random.RandomState(seed).permutation(n))


class InceptionScoreAccumulator(BlockAccumulator[ScoreSums]):
    """Accumulate the sums of each split from logits that arrive in pieces, from `first_index` on, a multiple
    of `block_size`.

    With `positions`, the position of each row in another order, the splits are contiguous in that order.
    """

    def __init__(
        self, first_index: int = 0, split_size: int = SPLIT_SIZE, positions: np.ndarray | None = None
    ):
        if split_size < 1:
            raise ValueError(f"expected split_size >= 1, found {split_size}")

        def block_sum(first: int, block_NK: np.ndarray) -> ScoreSums:
            if positions is None:
                return ScoreSums({first // split_size: SplitSums.of(block_NK)})
            splits_N = positions[first : first + len(block_NK)] // split_size
            return ScoreSums(
                {int(split): SplitSums.of(block_NK[splits_N == split]) for split in np.unique(splits_N)}
            )

        # No block contains rows of two splits. The published split size gives blocks of 1000.
        super().__init__(block_sum, "logits", first_index, gcd(BLOCK_SIZE, split_size))
