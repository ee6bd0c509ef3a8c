"""Fréchet distance and moments: closed forms, bits that do not depend on sharding, arrival or threads."""

import pickle
from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgflow.metrics.frechet import Gaussian, Moments, MomentsAccumulator, frechet_distance, low_rank_factor


def _features(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) / np.sqrt(d) + shift).astype(np.float32)


def _same_bits(a: Moments, b: Moments) -> bool:
    return a.n == b.n and a.sum.tobytes() == b.sum.tobytes() and a.outer.tobytes() == b.outer.tobytes()


# Closed forms


def test_axis_aligned_gaussians_have_the_closed_form():
    mean_a, mean_b = np.array([0.0, 1.0, -2.0]), np.array([0.5, 1.0, 3.0])
    variance_a, variance_b = np.array([4.0, 0.25, 9.0]), np.array([1.0, 0.25, 1e-6])
    expected = np.sum((mean_a - mean_b) ** 2) + np.sum((np.sqrt(variance_a) - np.sqrt(variance_b)) ** 2)
    a, b = Gaussian(mean_a, np.diag(variance_a)), Gaussian(mean_b, np.diag(variance_b))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-14)


def test_two_by_two_covariances_that_do_not_commute_have_the_closed_form():
    a, b = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[0.5, -0.3], [-0.3, 3.0]])
    # tr M^(1/2) = (tr M + 2 det(M)^(1/2))^(1/2) for a 2 x 2 matrix.
    trace_sqrt = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a) * np.linalg.det(b)))
    expected = np.trace(a) + np.trace(b) - 2 * trace_sqrt
    assert frechet_distance(Gaussian(np.zeros(2), a), Gaussian(np.zeros(2), b)) == pytest.approx(
        expected, rel=1e-13
    )


def test_covariances_of_rank_one_have_the_closed_form():
    u, v = np.random.default_rng(0).standard_normal((2, 50))
    expected = u @ u + v @ v - 2 * abs(u @ v)
    found = frechet_distance(Gaussian(np.zeros(50), np.outer(u, u)), Gaussian(np.zeros(50), np.outer(v, v)))
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_point_mass_is_as_far_as_its_mean_and_the_others_variance():
    point, spread = (
        Gaussian(np.full(3, 2.0), np.zeros((3, 3))),
        Gaussian(np.zeros(3), np.diag([1.0, 2.0, 3.0])),
    )
    assert frechet_distance(point, spread) == pytest.approx(12 + 6, rel=1e-14)


def test_fewer_rows_than_columns_give_the_nuclear_norm_of_the_centred_features():
    rows = [_features(n, 300, seed=n).astype(np.float64) for n in (40, 60)]
    a, b = ((x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in rows)  # the covariances are a^T a and b^T b
    means = np.sum((rows[0].mean(axis=0) - rows[1].mean(axis=0)) ** 2)
    expected = means + np.sum(a**2) + np.sum(b**2) - 2 * np.linalg.norm(a @ b.T, "nuc")
    assert frechet_distance(Moments.of(rows[0]), Moments.of(rows[1])) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rank", [1, 9, 10, 11, 39], ids="rank {}".format)
def test_the_factor_of_a_singular_covariance_has_its_eigenvalues(rank):
    d = 40
    basis, _ = np.linalg.qr(np.random.default_rng(rank).standard_normal((d, rank)))
    eigenvalues = np.geomspace(1e-9, 1.0, rank)  # far above working precision, 1e-14
    covariance = torch.from_numpy(basis * eigenvalues @ basis.T)
    A = low_rank_factor(covariance)
    assert A.shape == (d, rank)
    torch.testing.assert_close(A @ A.T, covariance, rtol=0, atol=1e-15)
    squares = A.T @ A
    np.testing.assert_allclose(np.sort(squares.diagonal()), eigenvalues, rtol=1e-5)
    assert (squares - torch.diag(squares.diagonal())).abs().max() < 1e-15


@pytest.mark.parametrize("n", [20, 500], ids=["fewer rows than columns", "full rank"])
def test_a_set_is_at_distance_zero_from_itself_and_from_itself_permuted(n):
    rows = _features(n, 48, seed=1, shift=3)
    permuted = np.random.default_rng(2).permutation(rows)
    assert frechet_distance(Moments.of(rows), Moments.of(rows)) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(Moments.of(rows), Moments.of(permuted)) == pytest.approx(0, abs=1e-10)


def test_a_shift_of_all_rows_adds_its_squared_length():
    rows = _features(400, 8, seed=3).astype(np.float64)
    assert frechet_distance(Moments.of(rows), Moments.of(rows + 0.25)) == pytest.approx(
        8 * 0.25**2, rel=1e-10
    )


def test_the_distance_is_symmetric_where_one_side_is_singular():
    few, many = Moments.of(_features(30, 40, seed=4)), Moments.of(_features(900, 40, seed=5))
    assert frechet_distance(few, many) == pytest.approx(frechet_distance(many, few), rel=1e-13)


def test_mean_and_covariance_are_numpys():
    rows = _features(2345, 7, seed=6, shift=1).astype(np.float64)
    np.testing.assert_allclose(Moments.of(rows).mean, rows.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(
        Moments.of(rows).covariance, np.cov(rows, rowvar=False), rtol=1e-11, atol=1e-13
    )


# Bits


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3300), max_size=12))
def test_any_sharding_of_the_same_rows_gives_the_same_bits(cuts):
    rows = _features(3300, 5, seed=11, shift=2)
    accumulator = MomentsAccumulator()
    for piece in np.split(rows, sorted(cuts)):
        accumulator.add(piece)
    assert _same_bits(accumulator.moments(), Moments.of(rows))


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_ranges_summed_by_workers_and_merged_as_they_arrive_have_the_bits_of_one_pass(workers):
    rows = _features(21_700, 5, seed=12, shift=2)
    held = [[] for _ in range(workers)]
    for number, first in enumerate(range(0, len(rows), 4000)):
        accumulator = MomentsAccumulator(first)
        for piece in np.array_split(rows[first : first + 4000], number + 1):
            accumulator.add(piece)
        held[number % workers].append(accumulator.sums())
    for seed in range(5):
        rng = np.random.default_rng(seed)
        states = [reduce(add, (sums[i] for i in rng.permutation(len(sums)))) for sums in held if sums]
        merged = pickle.loads(pickle.dumps(reduce(add, (states[i] for i in rng.permutation(len(states))))))
        assert _same_bits(merged.total(blocks=22), Moments.of(rows))


def test_a_range_that_begins_inside_a_block_is_refused():
    with pytest.raises(ValueError, match="multiple of 1000, found 1200"):
        MomentsAccumulator(1200)


def test_a_range_counted_twice_is_found():
    accumulator = MomentsAccumulator(2000)
    accumulator.add(_features(1500, 5, seed=13))
    with pytest.raises(ValueError, match="block 2 is in both"):
        add(accumulator.sums(), accumulator.sums())


def test_reading_the_moments_early_does_not_change_the_later_ones():
    rows = _features(2500, 5, seed=14)
    accumulator = MomentsAccumulator()
    accumulator.add(rows[:1300])
    assert _same_bits(accumulator.moments(), Moments.of(rows[:1300]))
    accumulator.add(rows[1300:])
    assert _same_bits(accumulator.moments(), Moments.of(rows))


def test_the_number_of_threads_changes_no_bit_and_is_left_as_it_was():
    rows, others = _features(2500, 301, seed=15), _features(2500, 301, seed=16)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            moments = Moments.of(rows)
            found.append((moments.outer.tobytes(), frechet_distance(moments, Moments.of(others))))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


# Errors


def test_one_row_is_too_few():
    with pytest.raises(ValueError, match="at least 2 rows, found 1"):
        frechet_distance(Moments.of(np.ones((1, 3))), Moments.of(_features(10, 3, seed=17)))


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="at least 1 row"):
        Moments.of(np.empty((0, 3)))


def test_dimensions_that_differ_are_both_named():
    with pytest.raises(ValueError, match="found 3 and 4"):
        frechet_distance(Moments.of(_features(10, 3, seed=18)), Moments.of(_features(10, 4, seed=18)))
    with pytest.raises(ValueError, match="found 3 and 4"):
        add(Moments.of(_features(10, 3, seed=18)), Moments.of(_features(10, 4, seed=18)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_row_that_is_not_finite_is_named_by_its_index(bad):
    rows = _features(50, 3, seed=19)
    rows[[7, 31], 2] = bad
    accumulator = MomentsAccumulator(3000)
    accumulator.add(rows[:5])
    with pytest.raises(ValueError, match=r"row 3012 is not finite \(2 such rows in 50\)"):
        accumulator.add(rows)


def test_rows_that_are_refused_leave_the_accumulator_as_it_was():
    rows = _features(1500, 3, seed=20)
    accumulator = MomentsAccumulator()
    accumulator.add(rows[:900])
    with pytest.raises(ValueError, match="row 900 is not finite"):
        accumulator.add(np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match="expected 3 columns"):
        accumulator.add(np.zeros((2, 4)))
    accumulator.add(rows[900:])
    assert _same_bits(accumulator.moments(), Moments.of(rows))


@pytest.mark.parametrize("shape", [(5,), (5, 2, 2), (5, 0)])
def test_features_that_are_not_rows_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected one row per sample, shape \[N, D\]"):
        Moments.of(np.zeros(shape))


@pytest.mark.parametrize(
    ("mean", "covariance", "message"),
    [
        (np.zeros(2), np.eye(3), "found \\[2\\] and \\[3, 3\\]"),
        (np.zeros(2), np.array([[1.0, np.nan], [np.nan, 1.0]]), "finite"),
        (np.zeros(2), np.array([[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
        (np.zeros(2), np.diag([1.0, -1.0]), "variance < 0"),
        (np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]]), "not positive semidefinite"),
    ],
)
def test_reference_statistics_that_cannot_be_are_refused(mean, covariance, message):
    with pytest.raises(ValueError, match=message):
        Gaussian(mean, covariance)
