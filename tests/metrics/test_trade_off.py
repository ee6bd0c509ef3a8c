"""The gap between two curves of a trade-off, in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgflow.metrics.trade_off import mean_gap


def test_the_gap_of_two_lines_is_that_of_their_middles():
    """y = 10 - x against y = 8 - x / 2, on [1, 5]: the gap 2 - x / 2 is 0.5 at x = 3."""
    base = ([0, 10], [10, 0])
    curve = ([1, 5], [8 - 1 / 2, 8 - 5 / 2])
    assert mean_gap(curve, base) == pytest.approx(0.5)
    assert mean_gap(base, curve) == pytest.approx(-0.5)


def test_corners_of_both_curves_count():
    """A tent of height 1 over [0, 2] under a flat line at 3, measured on [0, 4] where the tent goes on at 0:
    area 12 - 1 = 11 of width 4; the points of the other curve may lie anywhere."""
    tent = ([0, 1, 2, 4], [0, 1, 0, 0])
    assert mean_gap(tent, ([-1, 0.3, 9], [3, 3, 3])) == pytest.approx(11 / 4)


@given(shift=st.floats(-5, 5), seed=st.integers(0, 1_000))
def test_a_shifted_curve_lies_lower_by_the_shift_whatever_the_order_of_its_points(shift, seed):
    random = np.random.default_rng(seed)
    x, y = random.permutation(20)[:6].astype(float), random.normal(size=6)
    order = random.permutation(6)
    shifted = (x[order].tolist(), (y[order] - shift).tolist())
    assert mean_gap(shifted, (x.tolist(), y.tolist())) == pytest.approx(shift)


@pytest.mark.parametrize("x", [[3, 4], [2, 5], [1]])
def test_curves_without_a_common_range_have_no_gap(x):
    assert mean_gap((x, [0] * len(x)), ([1, 2], [1, 1])) is None


def test_points_need_both_coordinates():
    with pytest.raises(ValueError, match=r"as many x as y, one or more, found shapes \(2,\) and \(1,\)"):
        mean_gap(([1, 2], [3]), ([1, 2], [1, 1]))
