"""Test whether groups of samples share one class distribution: samples and reference by their labels, and the
splits of an Inception score by their labels and their predicted classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import chdtrc

from dgflow.metrics.inception_score import ScoreSums

_NAMED = 3  # maximum number of classes named in a message
_UNLIKE = 1e-3  # p-value below which samples and reference differ by more than chance
# Cohen's w^2 of a small effect (1988), such as 55 to 45 against 50 to 50. Uniform samples against ImageNet's
# training set, with 732 to 1,300 images per class, stay below it.
_SMALL = 0.01
_UNORDERED = 1e-6  # p-value below which splits are not in random order
_FEW_EXPECTED = 5.0  # expected samples per class below which chi-square is invalid (Cochran 1954)


def unlike_class_counts(labels_N: np.ndarray, reference_labels_M: np.ndarray) -> list[str]:
    """Warn if class shares differ between samples and reference by chi-square p < 1e-3 and at least a small
    effect.

    Unknown labels (any -1) and fewer than 5 images per class on either side are not judged.
    """
    sides = [np.asarray(labels_N), np.asarray(reference_labels_M)]
    if any(len(side) == 0 or side.min() < 0 for side in sides):
        return []
    classes, counts = _counts(sides)
    if _p_of_counts(counts) >= _UNLIKE or _effect(counts) < _SMALL:
        return []
    shares = counts / counts.sum(axis=1, keepdims=True)
    order = np.argsort(-np.abs(shares[0] - shares[1]), kind="stable")[:_NAMED]
    named = "; ".join(
        f"class {classes[place]} is {shares[0, place]:.1%} of the samples and {shares[1, place]:.1%} of the "
        "reference"
        for place in order
    )
    return [
        f"class counts of samples and reference differ: {named}. The metrics then also measure this "
        "difference"
    ]


def disorder(labels_N: np.ndarray, sums: ScoreSums, split_size: int) -> str:
    """The evidence that the samples of an Inception score are not in random order, in words. Empty for one
    split, and if chance explains the differences between splits (p >= 1e-6).
    """
    if len(sums.splits) < 2:
        return ""
    labels_N = np.asarray(labels_N)
    if labels_N.min() >= 0 and labels_N.min() != labels_N.max():
        if (np.diff(labels_N) >= 0).all():
            return "they are sorted by class"
        parts = [labels_N[start : start + split_size] for start in range(0, len(labels_N), split_size)]
        if _p_of_counts(_counts(parts)[1]) < _UNORDERED:
            return "the labels differ between splits"
    if _p_of_predictions(sums) < _UNORDERED:
        return "the predicted classes differ between splits"
    return ""


def _counts(groups: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The classes that occur [K], and their counts in each group [G, K]."""
    classes, places = np.unique(np.concatenate(groups), return_inverse=True)
    edges = np.cumsum([0, *map(len, groups)])
    counts = [
        np.bincount(places[start:stop], minlength=len(classes))
        for start, stop in zip(edges[:-1], edges[1:], strict=True)
    ]
    return classes, np.stack(counts)


def _p_of_counts(counts_GK: np.ndarray) -> float:
    """The p-value of Pearson's chi-square test that the groups share one distribution; 1 with too few
    samples."""
    counts = counts_GK[counts_GK.sum(axis=1) >= _FEW_EXPECTED * counts_GK.shape[1]]
    counts = counts[:, counts.sum(axis=0) > 0]
    groups, classes = counts.shape
    if groups < 2 or classes < 2:
        return 1.0
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    statistic = float((np.square(counts - expected) / expected).sum())
    return float(chdtrc((groups - 1) * (classes - 1), statistic))


def _effect(counts_2K: np.ndarray) -> float:
    """Sum of (p - q)^2 over the mean of both, for the shares p and q of two groups: Pearson's statistic per
    sample, minus its expectation under chance.
    """
    n_2 = counts_2K.sum(axis=1)
    expected = np.outer(n_2, counts_2K.sum(axis=0)) / n_2.sum()
    statistic = float((np.square(counts_2K - expected) / expected).sum())
    return (statistic - (counts_2K.shape[1] - 1)) * float((1 / n_2).sum())


def _p_of_predictions(sums: ScoreSums) -> float:
    """An upper bound of the p-value for the mean predictions of the splits.

    The statistic is Pearson's with mean probabilities instead of shares. For random order it is a weighted
    sum of chi-squares of (splits - 1) degrees of freedom, whose weights sum to the trace below. Far in the
    tail, such a sum does not exceed a single chi-square times the trace (Szekely and Bakirov 2003).
    """
    splits = list(sums.splits.values())
    n_S = np.array([split.n for split in splits], dtype=np.float64)
    sum_SK = np.stack([split.sum_p for split in splits])
    n, known = n_S.sum(), sum_SK.sum(axis=0) > 0
    sum_SK = sum_SK[:, known]
    mean_K = sum_SK.sum(axis=0) / n
    square_K = np.sum([split.sum_p_squared for split in splits], axis=0)[known] / n
    trace = float(((square_K - np.square(mean_K)) / mean_K).sum()) * n / (n - 1)
    if trace < 1e-9:  # the network predicts the same for all samples
        return 1.0
    gaps_SK = sum_SK / n_S[:, None] - mean_K
    statistic = float((n_S[:, None] * np.square(gaps_SK) / mean_K).sum())
    return float(chdtrc(len(splits) - 1, statistic / trace))
