"""Rank correlations and their p-values against scipy, and the bootstrap over repetitions by enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from dgflow.metrics.rank_correlation import kendall, over_repetitions, rank_correlation, ranks, spearman

SCIPY = {spearman: lambda a, b: stats.spearmanr(a, b)[0], kendall: lambda a, b: stats.kendalltau(a, b)[0]}
COEFFICIENTS = pytest.mark.parametrize("coefficient", SCIPY, ids=lambda each: each.__name__)


@COEFFICIENTS
@pytest.mark.parametrize("ties", [False, True], ids=["no ties", "ties"])
def test_coefficients_are_scipys(coefficient, ties: bool) -> None:
    random = np.random.default_rng(0)
    for count in (2, 5, 12):
        a, b = random.normal(size=(2, count))
        if ties:
            a, b = np.round(a), np.round(2 * b)
        if np.ptp(a) == 0 or np.ptp(b) == 0:
            continue  # scipy warns
        expected = SCIPY[coefficient](a, b)
        np.testing.assert_array_equal(ranks(a), stats.rankdata(a))
        found = rank_correlation(coefficient, a.tolist(), b.tolist())
        assert found.value == pytest.approx(expected, abs=1e-12)


def test_the_p_value_of_few_pairs_is_exact() -> None:
    """Kendall's by scipy's recursion for the exact distribution; Spearman's of perfect order 2 / n!."""
    random = np.random.default_rng(1)
    for count in (4, 6, 7):
        a, b = random.normal(size=(2, count))
        exact = float(stats.kendalltau(a, b, method="exact")[1])  # type: ignore[arg-type]
        assert rank_correlation(kendall, a.tolist(), b.tolist()).p == pytest.approx(exact, abs=1e-12)
    assert rank_correlation(spearman, range(6), range(6)).p == pytest.approx(2 / 720)
    assert rank_correlation(spearman, range(6), range(6, 0, -1)).p == pytest.approx(2 / 720)


def test_the_p_value_of_many_pairs_is_near_the_exact_one() -> None:
    a, b = np.random.default_rng(2).normal(size=(2, 12))
    b += 0.5 * a
    exact = float(stats.kendalltau(a, b, method="exact")[1])  # type: ignore[arg-type]
    error = 4 * (exact * (1 - exact) / 20_000) ** 0.5
    assert rank_correlation(kendall, a.tolist(), b.tolist()).p == pytest.approx(exact, abs=error)


@COEFFICIENTS
def test_values_that_are_all_equal_have_no_correlation(coefficient) -> None:
    found = rank_correlation(coefficient, [1.0, 1.0, 1.0], [1.0, 2.0, 3.0])
    assert (found.value, found.p) == (None, None)
    assert over_repetitions(coefficient, [1.0, 1.0, 1.0], [[1.0, 2.0, 3.0]] * 3) is None


@COEFFICIENTS
def test_the_interval_holds_95_percent_of_all_resamples(coefficient) -> None:
    random = np.random.default_rng(3)
    a, repetitions = random.normal(size=8), random.normal(size=(4, 8))
    every = [
        coefficient(a, repetitions[list(drawn)].mean(0)[None])[0]
        for drawn in itertools.product(range(4), repeat=4)
    ]
    low, high = over_repetitions(coefficient, a.tolist(), repetitions.tolist()) or (0.0, 0.0)
    assert (low, high) == pytest.approx(np.quantile(every, [0.025, 0.975], method="inverted_cdf"))
    assert over_repetitions(coefficient, a.tolist(), repetitions[:1].tolist()) is None
