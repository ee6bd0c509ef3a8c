"""Kernel distance: the kernel matrices written out, closed forms, blocks, subsets, errors."""

import numpy as np
import pytest
import torch
from metrics.in_memory import kernel_distance

from dgflow.metrics.kernel_distance import polynomial_mmd2, subset_indices


def _features(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((n, d)) + shift).astype(np.float32)


def _written_out(real: np.ndarray, fake: np.ndarray) -> float:
    real, fake = real.astype(np.float64), fake.astype(np.float64)
    within_real, within_fake, across = (
        (a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((real, real), (fake, fake), (real, fake))
    )
    n, m = len(real), len(fake)
    pairs = (within_real.sum() - within_real.trace()) / (n * (n - 1)) + (
        within_fake.sum() - within_fake.trace()
    ) / (m * (m - 1))
    return float(pairs - 2 * across.mean())


def test_points_have_the_distance_counted_by_hand():
    # One feature: k(1, 1) = 8, k(0, x) = 1, so 8 + 1 - 2.
    assert polynomial_mmd2(np.ones((2, 1)), np.zeros((3, 1))) == pytest.approx(7, rel=1e-15)


def test_two_laws_have_the_distance_of_their_moments_in_expectation():
    # (x y + 1)^3 is the inner product of (1, sqrt(3) x, sqrt(3) x^2, x^3): for N(0, 1) against N(1, 1) the
    # means differ by 0, 1, 1, 4.
    rng = np.random.default_rng(0)
    found = [
        polynomial_mmd2(rng.standard_normal((400, 1)), rng.standard_normal((400, 1)) + 1) for _ in range(200)
    ]
    assert np.mean(found) == pytest.approx(3 * 1 + 3 * 1 + 16, abs=4 * np.std(found) / np.sqrt(200))


@pytest.mark.parametrize("block_size", [1, 7, 40, 512])
@pytest.mark.parametrize(("n", "m"), [(90, 90), (41, 100)])
def test_blocks_add_up_to_the_kernel_matrices_written_out(n, m, block_size):
    real, fake = _features(n, 12, seed=1), _features(m, 12, seed=2, shift=0.3)
    assert polynomial_mmd2(real, fake, block_size) == pytest.approx(_written_out(real, fake), rel=1e-11)


def test_the_sides_may_change_places():
    real, fake = _features(50, 5, seed=3), _features(60, 5, seed=4, shift=1)
    assert polynomial_mmd2(real, fake) == pytest.approx(polynomial_mmd2(fake, real), rel=1e-13)


def test_the_number_of_threads_changes_no_bit_and_is_left_as_it_was():
    real, fake, before, found = (
        _features(700, 301, seed=5),
        _features(700, 301, seed=6),
        torch.get_num_threads(),
        [],
    )
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(polynomial_mmd2(real, fake))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_each_subset_can_be_measured_alone():
    real, fake = _features(300, 6, seed=7), _features(200, 6, seed=8, shift=0.5)
    drawn = subset_indices(300, 200, subsets=8, subset_size=50, seed=3)
    alone = {j: polynomial_mmd2(real[drawn[j][0]], fake[drawn[j][1]]) for j in (5, 0, 7, 2, 1, 6, 4, 3)}
    whole = kernel_distance(real, fake, subsets=8, subset_size=50, seed=3)
    assert tuple(alone[j] for j in range(8)) == whole.per_subset
    assert (whole.mean, whole.std) == pytest.approx(
        (np.mean(whole.per_subset), np.std(whole.per_subset)), rel=1e-14
    )


def test_a_subset_has_no_row_twice_and_stays_in_range():
    for real, fake in subset_indices(30, 40, subsets=20, subset_size=30):
        assert len(set(real)) == len(set(fake)) == 30
        assert max(real) < 30 and max(fake) < 40


def test_the_published_setting_is_the_default():
    drawn = subset_indices(1500, 1200)
    assert (len(drawn), len(drawn[0][0]), len(drawn[0][1])) == (100, 1000, 1000)


# Errors


@pytest.mark.parametrize(("real", "fake"), [(99, 500), (500, 99)])
def test_subsets_larger_than_a_side_are_refused(real, fake):
    with pytest.raises(ValueError, match=f"at least 100 rows per side, found {real} real and {fake} fake"):
        subset_indices(real, fake, subset_size=100)


@pytest.mark.parametrize(("subsets", "size"), [(0, 10), (5, 1)])
def test_numbers_out_of_range_are_refused(subsets, size):
    with pytest.raises(ValueError, match=f"found {subsets} and {size}"):
        subset_indices(20, 20, subsets, size)


def test_one_row_is_too_few():
    with pytest.raises(ValueError, match="at least 2 rows per side, found 1 real and 5 fake"):
        polynomial_mmd2(np.ones((1, 3)), np.ones((5, 3)))


def test_widths_that_differ_are_both_named():
    with pytest.raises(ValueError, match="found 3 and 4"):
        polynomial_mmd2(np.ones((5, 3)), np.ones((5, 4)))


def test_a_row_that_is_not_finite_is_named():
    fake = _features(20, 3, seed=9)
    fake[13, 2] = np.inf
    with pytest.raises(ValueError, match="fake: row 13 is not finite"):
        polynomial_mmd2(_features(20, 3, seed=10), fake)
