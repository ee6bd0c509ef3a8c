"""Inception score (Salimans et al. 2016) from logits.

Promises: float64 and a log-softmax, so that probabilities which underflow give a number and not NaN;
    contiguous splits by index; sums whose
bits depend on the stored logits and not on how they were sharded. Leaves to others: the logits (the published
    protocol drops the layer's
bias and keeps 1008 ways).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, gcd

import numpy as np
from scipy.special import log_softmax, xlogy

from dgflow.metrics.block_sums import BlockSums
from dgflow.metrics.rows import BLOCK_SIZE, BlockAccumulator

SPLIT_SIZE = 5000  # of OpenAI's evaluator; 50,000 samples make 10 splits


@dataclass(frozen=True, eq=False)
class SplitSums:
    """What one split is known by: n rows, the sum of p [K] and the sum of p log p over rows and classes, in
    float64."""

    n: int
    sum_p: np.ndarray
    sum_p_log_p: float

    @classmethod
    def of(cls, logits_NK: np.ndarray) -> SplitSums:
        """Sums over all rows of finite logits."""
        log_p_NK = log_softmax(np.asarray(logits_NK, dtype=np.float64), axis=1)
        p_NK = np.exp(log_p_NK)
        return cls(len(p_NK), p_NK.sum(axis=0), float((p_NK * log_p_NK).sum()))

    def __add__(self, other: SplitSums) -> SplitSums:
        """Sums over both sets of rows, which belong to the same split."""
        return SplitSums(self.n + other.n, self.sum_p + other.sum_p, self.sum_p_log_p + other.sum_p_log_p)

    @property
    def score(self) -> float:
        """exp of the mean KL divergence of p from the split's mean p; in [1, K] up to rounding."""
        mean_p = self.sum_p / self.n
        return exp(self.sum_p_log_p / self.n - float(xlogy(mean_p, mean_p).sum()))


@dataclass(frozen=True, eq=False)
class ScoreSums:
    """The sums of each split by its number, `index // split_size`."""

    splits: Mapping[int, SplitSums]

    def __add__(self, other: ScoreSums) -> ScoreSums:
        """The sums of both, split by split."""
        shared = {
            split: self.splits[split] + sums if split in self.splits else sums
            for split, sums in other.splits.items()
        }
        return ScoreSums({**self.splits, **shared})


@dataclass(frozen=True)
class InceptionScore:
    """Mean and population standard deviation of the splits' scores, and these scores in index order."""

    mean: float
    std: float
    per_split: tuple[float, ...]

    @classmethod
    def of(cls, sums: ScoreSums) -> InceptionScore:
        """The score from the sums of all splits; a shorter last split counts like the others, as published."""
        per_split = tuple(sums.splits[split].score for split in sorted(sums.splits))
        return cls(float(np.mean(per_split)), float(np.std(per_split)), per_split)


class InceptionScoreAccumulator:
    """Sums by split of logits that arrive in pieces, in index order, from `first_index` on: 0, or a multiple
    of `block_size`.

    Parts may be summed by different workers, and need not end where a split does. Their `sums()`, added in
    any order, have the total that one pass has, bit for bit.
    """

    def __init__(self, first_index: int = 0, split_size: int = SPLIT_SIZE):
        if split_size < 1:
            raise ValueError(f"expected split_size >= 1, found {split_size}")
        self.block_size = gcd(
            BLOCK_SIZE, split_size
        )  # blocks that never straddle two splits; 1000 for the published splits

        def of_block(first: int, block_NK: np.ndarray) -> ScoreSums:
            return ScoreSums({first // split_size: SplitSums.of(block_NK)})

        self._blocks = BlockAccumulator(of_block, "logits", first_index, self.block_size)

    def add(self, logits_NK: np.ndarray) -> None:
        """Take the next rows [N, K].

        Raises ValueError that names the first row that is not finite, or both widths if they differ.
        """
        self._blocks.add(logits_NK)

    def sums(self) -> BlockSums[ScoreSums]:
        """Sums of all rows so far, those of an unfinished block included; more rows may follow."""
        return self._blocks.sums()


def inception_score(logits_NK: np.ndarray, split_size: int = SPLIT_SIZE) -> InceptionScore:
    """Inception score of logits [N, K] over the contiguous splits [0, split_size), [split_size, 2
    split_size), ...

    Raises ValueError if there are no rows or one is not finite.
    """
    accumulator = InceptionScoreAccumulator(split_size=split_size)
    accumulator.add(logits_NK)
    return InceptionScore.of(accumulator.sums().total())
