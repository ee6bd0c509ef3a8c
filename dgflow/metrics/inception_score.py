"""Inception score (Salimans et al. 2016) from logits.

Promises: float64 and a log-softmax, so that probabilities which underflow give a number and not NaN; contiguous splits by index; sums whose
bits depend on the stored logits and not on how they were sharded. Leaves to others: the logits (the published protocol drops the layer's
bias and keeps 1008 ways).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, gcd

import numpy as np
from scipy.special import log_softmax, xlogy

from dgflow.metrics.rows import BlockBuffer

SPLIT_SIZE = 5000  # of OpenAI's evaluator; 50,000 samples make 10 splits


@dataclass(frozen=True, eq=False)
class SplitSums:
    """What one split is known by: n rows, the sum of p [K] and the sum of p log p over rows and classes, in float64."""

    n: int
    sum_p: np.ndarray
    sum_p_log_p: float

    @classmethod
    def of(cls, logits_NK: np.ndarray) -> "SplitSums":
        """Sums over all rows of finite logits."""
        log_p_NK = log_softmax(np.asarray(logits_NK, dtype=np.float64), axis=1)
        p_NK = np.exp(log_p_NK)
        return cls(len(p_NK), p_NK.sum(axis=0), float((p_NK * log_p_NK).sum()))

    def __add__(self, other: "SplitSums") -> "SplitSums":
        """Sums over both sets of rows, which belong to the same split."""
        return SplitSums(self.n + other.n, self.sum_p + other.sum_p, self.sum_p_log_p + other.sum_p_log_p)

    @property
    def score(self) -> float:
        """exp of the mean KL divergence of p from the split's mean p; in [1, K] up to rounding."""
        mean_p = self.sum_p / self.n
        return exp(self.sum_p_log_p / self.n - float(xlogy(mean_p, mean_p).sum()))


@dataclass(frozen=True)
class InceptionScore:
    """Mean and population standard deviation of the splits' scores, and these scores in index order."""

    mean: float
    std: float
    per_split: tuple[float, ...]


class InceptionScoreAccumulator:
    """Sums by split of logits that arrive in pieces, in index order, from the index `first_index` of the slice."""

    def __init__(self, split_size: int = SPLIT_SIZE, first_index: int = 0):
        if split_size < 1:
            raise ValueError(f"expected split_size >= 1, found {split_size}")
        self._split_size = split_size
        self._buffer = BlockBuffer(gcd(1000, split_size), "logits", first_index)  # blocks that never straddle two splits
        self._splits: dict[int, SplitSums] = {}

    def add(self, logits_NK: np.ndarray) -> None:
        """Take the next rows [N, K]. Raises ValueError that names the first row that is not finite, or both widths if they differ."""
        for first, block in self._buffer.add(logits_NK):
            self._splits = self._with(first, block)

    def splits(self) -> dict[int, SplitSums]:
        """Sums of all rows so far by split number `index // split_size`; more rows may follow."""
        first, block = self._buffer.rest()
        return self._with(first, block) if len(block) else dict(self._splits)

    def _with(self, first: int, block: np.ndarray) -> dict[int, SplitSums]:
        return merge_splits(self._splits, {first // self._split_size: SplitSums.of(block)})


def merge_splits(a: Mapping[int, SplitSums], b: Mapping[int, SplitSums]) -> dict[int, SplitSums]:
    """The sums of both by split number. Where the two share no split, so that nothing is added, the bits are those of one accumulator."""
    return {**a, **{split: a[split] + sums if split in a else sums for split, sums in b.items()}}


def inception_score_of(splits: Mapping[int, SplitSums]) -> InceptionScore:
    """Score from complete sums by split; a shorter last split counts like the others, as published. Raises ValueError if there are none."""
    if not splits:
        raise ValueError("an Inception score needs at least 1 row of logits, found 0; check that the slice is not empty")
    per_split = tuple(splits[split].score for split in sorted(splits))
    return InceptionScore(float(np.mean(per_split)), float(np.std(per_split)), per_split)


def inception_score(logits_NK: np.ndarray, split_size: int = SPLIT_SIZE) -> InceptionScore:
    """Inception score of logits [N, K] over the contiguous splits [0, split_size), [split_size, 2 split_size), ...

    Raises ValueError if there are no rows or one is not finite.
    """
    accumulator = InceptionScoreAccumulator(split_size)
    accumulator.add(logits_NK)
    return inception_score_of(accumulator.splits())
