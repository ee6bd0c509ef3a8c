"""Standard error of the Fréchet distance: derivatives, the jackknife in full, the spread over independent
draws, singular covariances."""

import pickle
from functools import reduce
from operator import add

import numpy as np
import pytest
from metrics.in_memory import frechet_standard_error

from dgflow.metrics.frechet import Gaussian, Moments, frechet_distance
from dgflow.metrics.frechet_error import FrechetInfluence, InfluenceAccumulator, InfluenceSums


def _mixing(d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((d, d)) / np.sqrt(d) * np.exp(0.7 * rng.standard_normal(d))


def _gaussian(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    return 1.3 * rng.standard_normal((n, d)) @ _mixing(d) + 0.2


def _skewed(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Not negative, with heavy tails, as Inception features are."""
    return np.maximum(rng.standard_gamma(1.0, (n, d)) @ _mixing(d) + 0.1, 0)


def _reference(d: int) -> Gaussian:
    return Gaussian(np.zeros(d), _mixing(d).T @ _mixing(d))


def _features(n: int, d: int, seed: int) -> np.ndarray:
    return _gaussian(np.random.default_rng(seed), n, d)


# What an influence is


def test_influences_of_one_feature_have_the_closed_form():
    rows, reference = _features(200, 1, seed=1), Gaussian(np.array([0.5]), np.array([[4.0]]))
    m, s = rows.mean(), rows.std(ddof=1)
    expected = 2 * (m - 0.5) * (rows[:, 0] - m) + (1 - 2.0 / s) * ((rows[:, 0] - m) ** 2 - s**2)
    np.testing.assert_allclose(
        FrechetInfluence.of(Moments.of(rows), reference).rows(rows), expected, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize(
    ("n", "constant"),
    [(300, 0), (300, 3), (15, 0)],
    ids=["full rank", "constant columns", "fewer rows than columns"],
)
def test_an_influence_is_the_derivative_of_the_distance_as_the_sample_gains_weight(n, constant):
    rows = np.hstack([_features(n, 20, seed=2), np.ones((n, constant))])
    reference = Moments.of(np.hstack([_features(500, 20, seed=3) + 0.4, np.ones((500, constant))]))
    samples = Moments.of(rows)

    def distance(x: np.ndarray, weight: float) -> float:
        c = x - samples.mean
        covariance = (1 - weight) * samples.covariance + weight * (1 - weight) * np.outer(c, c)
        return frechet_distance(Gaussian(samples.mean + weight * c, covariance), reference)

    found = FrechetInfluence.of(samples, reference).rows(rows[:5])
    slopes = [(distance(x, 1e-5) - distance(x, -1e-5)) / 2e-5 for x in rows[:5]]
    np.testing.assert_allclose(found, slopes, rtol=1e-4, atol=1e-4 * np.abs(slopes).max())


# What the standard error is


@pytest.mark.parametrize("law", [_gaussian, _skewed])
def test_it_agrees_with_the_delete_one_jackknife(law):
    rows, reference = law(np.random.default_rng(4), 400, 4), _reference(4)
    without = np.array(
        [frechet_distance(Moments.of(np.delete(rows, i, axis=0)), reference) for i in range(len(rows))]
    )
    jackknife = np.sqrt((len(rows) - 1) * np.var(without))
    assert frechet_standard_error(rows, reference) == pytest.approx(
        jackknife, rel=0.05
    )  # they differ by O(1 / n)


@pytest.mark.parametrize("d", [8, 32])
@pytest.mark.parametrize("law", [_gaussian, _skewed])
def test_it_is_the_spread_of_the_distance_over_independent_draws(law, d):
    draws = [law(np.random.default_rng([55, draw]), 2000, d) for draw in range(300)]
    spread = np.std([frechet_distance(Moments.of(rows), _reference(d)) for rows in draws], ddof=1)
    predicted = np.mean([frechet_standard_error(rows, _reference(d)) for rows in draws[::20]])
    assert predicted == pytest.approx(
        spread, rel=0.15
    )  # the spread of 300 draws is itself known to 5 % or so


@pytest.mark.parametrize("n", [12, 48, 480], ids=lambda n: f"{n} samples of 24 features")
def test_it_is_at_worst_half_too_large_where_samples_have_the_law_of_the_reference(n):
    draws = [np.random.default_rng([6, draw]).standard_normal((n, 24)) @ _mixing(24) for draw in range(200)]
    spread = np.std([frechet_distance(Moments.of(rows), _reference(24)) for rows in draws], ddof=1)
    predicted = np.mean([frechet_standard_error(rows, _reference(24)) for rows in draws[::10]])
    assert 1 < predicted / spread < 1.6


def test_constant_and_collinear_columns_change_nothing():
    rows, reference = _features(300, 6, seed=7), _features(500, 6, seed=8) + 0.3
    wider, _ = np.linalg.qr(
        np.random.default_rng(9).standard_normal((10, 10))
    )  # a rotation keeps the distance; ranks stay 6 of 10
    padded, padded_reference = (np.hstack([x, np.ones((len(x), 4))]) @ wider for x in (rows, reference))
    expected = frechet_standard_error(rows, Moments.of(reference))
    assert frechet_standard_error(padded, Moments.of(padded_reference)) == pytest.approx(expected, rel=1e-7)


def test_four_times_the_samples_halve_it():
    few, many = (frechet_standard_error(_features(n, 8, seed=10), _reference(8)) for n in (5000, 20_000))
    assert few / many == pytest.approx(2, rel=0.1)


# Merging


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_ranges_merged_as_they_arrive_have_the_bits_of_one_pass(workers):
    rows, reference = _features(9500, 5, seed=11), _reference(5)
    influence = pickle.loads(pickle.dumps(FrechetInfluence.of(Moments.of(rows), reference)))
    held = [[] for _ in range(workers)]
    for number, first in enumerate(range(0, len(rows), 2000)):
        accumulator = InfluenceAccumulator(influence, first)
        for piece in np.array_split(rows[first : first + 2000], number + 1):
            accumulator.add(piece)
        held[number % workers].append(accumulator.sums())
    states = [reduce(add, reversed(sums)) for sums in held if sums]
    merged: InfluenceSums = reduce(add, reversed(states)).total(blocks=10)
    assert merged.n == 9500
    assert merged.standard_error == frechet_standard_error(rows, reference)


# Errors


def test_few_samples_are_refused():
    with pytest.raises(ValueError, match="at least 10 samples, found 9"):
        frechet_standard_error(_features(9, 3, seed=12), _reference(3))


def test_dimensions_that_differ_are_both_named():
    with pytest.raises(ValueError, match="found 3 and 4"):
        frechet_standard_error(_features(20, 3, seed=13), _reference(4))


def test_a_row_that_is_not_finite_is_named():
    rows = _features(50, 3, seed=14)
    influence = FrechetInfluence.of(Moments.of(rows), _reference(3))
    rows[17, 1] = np.nan
    with pytest.raises(ValueError, match="row 17 is not finite"):
        influence.rows(rows)
