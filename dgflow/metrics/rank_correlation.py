"""Rank correlations of few pairs, with exact or sampled permutation tests and a bootstrap over repetitions.

Spearman's rho is Pearson's correlation of average ranks; Kendall's tau is tau-b, which corrects for ties.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, permutations
from typing import NamedTuple

import numpy as np

EXACT = 8
"""The largest number of pairs for which all permutations (40,320) are tried. For more pairs, `DRAWN` random
permutations are tried.
"""
DRAWN = 20_000
MOST_RESAMPLES = 2_000  # maximum number of distinct resamples: seven repetitions have 1,716
_SAME = 1e-9  # differences of correlations up to this are rounding errors


class Interval(NamedTuple):
    """The interval that holds 95 % of resamples."""

    low: float
    high: float


@dataclass(frozen=True)
class RankCorrelation:
    """A correlation in [-1, 1] and its two-sided permutation p-value; both None if all values are equal."""

    value: float | None
    p: float | None


Coefficient = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""`coefficient(a, b)`: the correlations of a [n] with each row of b [m, n]; not finite for constant
values."""


def ranks(values: np.ndarray) -> np.ndarray:
    """The average ranks along the last axis, starting at 1."""
    smaller = (values[..., None, :] < values[..., :, None]).sum(-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(-1)
    return smaller + (equal + 1) / 2


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rho of a [n] with each row of b [m, n]."""
    x, y = ranks(a), ranks(b)
    return _cosine(x - x.mean(), y - y.mean(-1, keepdims=True))


def kendall(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of a [n] with each row of b [m, n]."""
    first, second = np.triu_indices(len(a), 1)
    return _cosine(np.sign(a[first] - a[second]), np.sign(b[:, first] - b[:, second]))


def rank_correlation(coefficient: Coefficient, a: Sequence[float], b: Sequence[float]) -> RankCorrelation:
    """The correlation of two sequences of the same length, at least 2, and its p-value: the share of
    permutations of `b` whose correlation with `a` is at least as large in magnitude.
    """
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    value = float(coefficient(x, y[None])[0])
    if not math.isfinite(value):
        return RankCorrelation(None, None)
    orders, exact = _orders(len(x))
    reached = int((np.abs(coefficient(x, y[orders])) >= abs(value) - _SAME).sum())
    return RankCorrelation(value, reached / len(orders) if exact else (reached + 1) / (len(orders) + 1))


def over_repetitions(
    coefficient: Coefficient, a: Sequence[float], repetitions: Sequence[Sequence[float]]
) -> Interval | None:
    """The 95 % interval of the correlation of `a` [n] with the mean of `repetitions` [r, n], over all
    resamples of r repetitions with replacement. None for one repetition, for more than seven, and if any
    resampled mean is constant.

    Few repetitions have few resamples: three have ten distinct ones.
    """
    count = len(repetitions)
    if count < 2 or math.comb(2 * count - 1, count) > MOST_RESAMPLES:
        return None
    drawn = list(combinations_with_replacement(range(count), count))
    times = np.array([[draw.count(number) for number in range(count)] for draw in drawn])
    ways = [math.factorial(count) / math.prod(map(math.factorial, row)) for row in times.tolist()]
    values = coefficient(np.asarray(a, dtype=float), times @ np.asarray(repetitions, dtype=float) / count)
    if not np.isfinite(values).all():
        return None
    order = np.argsort(values, kind="stable")
    share = np.cumsum(np.asarray(ways)[order]) / sum(ways)
    low, high = (values[order[np.searchsorted(share, level - _SAME)]] for level in (0.025, 0.975))
    return Interval(float(low), float(high))


def _orders(count: int) -> tuple[np.ndarray, bool]:
    """Permutations [m, count], and True if they are all permutations."""
    if count <= EXACT:
        return np.array(list(permutations(range(count)))), True
    # The raw stream of a bit generator is stable across versions of numpy.
    keys = np.random.Philox(key=0).random_raw(DRAWN * count).reshape(DRAWN, count)
    return keys.argsort(-1, kind="stable"), False


def _cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (y @ x) / np.sqrt((x @ x) * (y * y).sum(-1))
