"""Precision and recall: cases by hand, ties, the same bits for every cut, order and thread count, memory, and
what is refused."""

import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics.in_memory import inside_any_ball, precision_recall, squared_radii

from dgflow.metrics import exact_distances
from dgflow.metrics import precision_recall as module
from dgflow.metrics.precision_recall import PrecisionRecall, inside_any_ball_of, squared_radii_of


def _features(n: int, d: int, seed: int, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal((n, d))).astype(np.float32)


def _cut(rows: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    return np.split(rows, np.minimum(np.cumsum(sizes), len(rows)))


def test_a_case_on_the_line_counts_a_fake_on_the_edge_of_a_ball_as_inside():
    real, fake = np.array([[0.0], [1.0]]), np.array([[2.0], [10.0]])
    assert precision_recall(real, fake, k=1) == PrecisionRecall(
        precision=0.5, recall=1.0
    )  # radii 1, 1 and 8, 8


def test_radii_reach_the_kth_other_row():
    rows = np.array([[0.0], [1.0], [3.0], [7.0]])
    np.testing.assert_array_equal(squared_radii(rows, k=1), [1, 1, 4, 16])
    np.testing.assert_array_equal(squared_radii(rows, k=3), [49, 36, 16, 49])


def test_a_block_of_queries_has_the_radii_of_its_rows_in_the_streamed_population():
    rows = np.arange(100.0)[:, None]
    np.testing.assert_array_equal(squared_radii_of(rows[:3], iter([rows[50:], rows[:50]]), k=2), [4, 1, 1])


def test_as_many_neighbours_as_there_are_other_rows_reach_the_farthest():
    rows = np.array([[0.0], [2.0], [7.0]])
    np.testing.assert_array_equal(squared_radii(rows, k=2), [49, 25, 49])


def test_identical_sets_have_precision_and_recall_one():
    rows = _features(200, 16, seed=0)
    assert precision_recall(rows, np.random.default_rng(1).permutation(rows)) == PrecisionRecall(1, 1)


def test_disjoint_sets_have_precision_and_recall_zero():
    assert precision_recall(_features(100, 16, seed=2), _features(120, 16, seed=3) + 100) == PrecisionRecall(
        0, 0
    )


def test_fakes_from_one_mode_of_two_have_full_precision_and_half_recall():
    mode = _features(150, 4, seed=4)
    assert precision_recall(np.concatenate([mode, mode + 1000]), mode) == PrecisionRecall(1, 0.5)


def test_f1_is_the_harmonic_mean_and_zero_where_both_are_zero():
    assert PrecisionRecall(0.5, 1.0).f1 == pytest.approx(2 / 3)
    assert PrecisionRecall(0.0, 0.0).f1 == 0


def test_repeated_rows_have_radius_zero_and_cover_their_copies_alone():
    rows = _features(40, 32, seed=11, scale=np.pi)
    repeated = np.repeat(rows, 5, axis=0)
    near_misses = np.nextafter(rows, np.float32(np.inf))
    np.testing.assert_array_equal(squared_radii(repeated), 0)
    found = inside_any_ball(np.concatenate([rows, near_misses]), repeated, np.zeros(200))
    np.testing.assert_array_equal(found, [True] * 40 + [False] * 40)


@pytest.mark.parametrize("exponent", [-80, -20, 40, 62])
def test_features_that_float32_squares_do_not_hold_scale_exactly(exponent):
    rows, queries = _features(150, 6, seed=21), _features(100, 6, seed=22)
    radii = squared_radii(rows)
    scale = np.float32(2.0**exponent)
    np.testing.assert_array_equal(squared_radii(rows * scale), radii * 2.0 ** (2 * exponent))
    scaled = inside_any_ball(queries * scale, rows * scale, radii * 2.0 ** (2 * exponent))
    np.testing.assert_array_equal(scaled, inside_any_ball(queries, rows, radii))


sizes = st.lists(st.integers(0, 40), min_size=1, max_size=8)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), sizes, sizes, st.booleans(), st.randoms(use_true_random=False))
def test_no_cut_and_no_order_changes_a_bit(
    centre_rows, strip_rows, query_sizes, piece_sizes, lattice, random
):
    # A lattice has ties and repeated rows everywhere, pi times random numbers has none.
    rows, others = _features(90, 5, seed=23, scale=np.pi), _features(60, 5, seed=24, scale=np.pi)
    if lattice:
        rows, others = np.round(rows / 3), np.round(others / 3)
    radii = squared_radii(rows)
    inside = inside_any_ball(others, rows, radii)
    order = random.sample(range(90), 90)
    with (
        mock.patch.multiple(module, _CENTRE_ROWS=centre_rows),
        mock.patch.object(exact_distances, "_STRIP_ROWS", strip_rows),
    ):
        found = [squared_radii_of(part, _cut(rows[order], piece_sizes)) for part in _cut(rows, query_sizes)]
        balls = list(zip(_cut(rows[order], piece_sizes), _cut(radii[order], piece_sizes), strict=True))
        found_inside = [inside_any_ball_of(part, balls) for part in _cut(others, query_sizes)]
    assert np.concatenate(found).tobytes() == radii.tobytes()
    np.testing.assert_array_equal(np.concatenate(found_inside), inside)


def test_float32_and_float64_bounds_leave_the_same_bits():
    rows, queries = np.exp(_features(700, 300, seed=25)), np.exp(_features(300, 300, seed=26))
    radii = squared_radii(rows)
    inside = inside_any_ball(queries, rows, radii)
    with mock.patch.object(exact_distances, "_LARGEST", -1.0):
        assert squared_radii(rows).tobytes() == radii.tobytes()
        np.testing.assert_array_equal(inside_any_ball(queries, rows, radii), inside)
    assert 0 < inside.sum() < len(queries)


def test_the_number_of_threads_changes_no_bit_of_a_radius():
    rows = _features(700, 53, seed=15)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(squared_radii(rows).tobytes())
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_centres_can_be_split_and_joined_with_or():
    queries, centres = _features(200, 5, seed=16), _features(150, 5, seed=17)
    radii = squared_radii(centres)
    whole = inside_any_ball(queries, centres, radii)
    assert 0 < whole.sum() < 200
    parts = [inside_any_ball(queries, centres[part], radii[part]) for part in (slice(0, 40), slice(40, 150))]
    np.testing.assert_array_equal(parts[0] | parts[1], whole)


def test_memory_does_not_grow_with_the_rows_that_are_streamed():
    program = """
import resource
import numpy as np
from dgflow.metrics.precision_recall import inside_any_ball_of, squared_radii_of

def pieces(n):
    for seed in range(n // 500):
        yield np.exp(np.random.default_rng(seed).standard_normal((500, 256), dtype=np.float32))

queries = np.concatenate(list(pieces(1000)))
for n in (4000, 16000):
    radius = np.median(squared_radii_of(queries, pieces(n)))
    inside_any_ball_of(queries, ((piece, np.full(500, radius / 2)) for piece in pieces(n)))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    few, many = (int(kib) / 1024 for kib in found.stdout.split())
    assert many - few < 30  # MB; the rows themselves grew by 12 MB, their distances by 100


def test_no_queries_give_no_answers():
    rows = _features(10, 4, seed=19)
    assert (
        squared_radii_of(rows[:0], [rows]).shape == inside_any_ball(rows[:0], rows, np.ones(10)).shape == (0,)
    )


def test_read_only_arrays_are_taken_without_a_warning(recwarn):
    rows = _features(20, 4, seed=18)
    rows.flags.writeable = False
    precision_recall(rows, rows)
    assert not recwarn.list


def test_whole_numbers_are_taken_as_they_are():
    rows = np.array([[0], [3], [4]], dtype=np.uint8)
    np.testing.assert_array_equal(squared_radii(rows, k=1), [9, 1, 1])


def test_too_few_rows_for_k_neighbours_are_refused():
    with pytest.raises(ValueError, match="at least k \\+ 1 = 4 rows of features, found 3"):
        precision_recall(_features(10, 4, seed=19), _features(3, 4, seed=19))
    with pytest.raises(ValueError, match="at least k \\+ 1 = 4 rows of features, found 3"):
        squared_radii_of(_features(2, 4, seed=19), [_features(2, 4, seed=19), _features(1, 4, seed=20)])


def test_no_neighbours_are_refused():
    with pytest.raises(ValueError, match="k >= 1 nearest neighbours, found 0"):
        squared_radii_of(_features(2, 4, seed=19), [_features(2, 4, seed=19)], k=0)


def test_dimensions_that_differ_are_both_named():
    with pytest.raises(ValueError, match="fake features: expected 4 columns .* found 5"):
        precision_recall(_features(10, 4, seed=19), _features(10, 5, seed=19))
    with pytest.raises(ValueError, match="centres: expected 4 columns .* found 5"):
        inside_any_ball_of(_features(10, 4, seed=19), [(_features(10, 5, seed=19), np.ones(10))])


def test_a_row_that_is_not_finite_is_named_with_its_side():
    fake = _features(10, 4, seed=19)
    fake[6, 1] = np.inf
    with pytest.raises(ValueError, match="fake features: row 6 is not finite"):
        precision_recall(_features(10, 4, seed=19), fake)


def test_a_streamed_row_that_is_not_finite_is_named_by_its_index():
    rows = _features(30, 4, seed=19)
    rows[17, 2] = np.nan
    with pytest.raises(ValueError, match="population: row 17 is not finite"):
        squared_radii_of(rows[:5], np.split(rows, 3))


def test_radii_that_are_not_one_a_centre_are_refused():
    with pytest.raises(ValueError, match=r"shape \[10\], found shape \[9\]"):
        inside_any_ball(_features(3, 4, seed=19), _features(10, 4, seed=19), np.zeros(9))


def test_distances_of_another_name_are_refused_with_those_there_are():
    with pytest.raises(ValueError, match="expected distances of exact, openai-float16, found 'float16'"):
        squared_radii(_features(10, 4, seed=19), distances="float16")  # pyright: ignore[reportArgumentType]


# OpenAI's float16: [32, 32, 1] is sqrt(2049) from the origin, and 2049 lies between the float16 numbers 2048
# and 2050; 300^2 overflows.
NEAR, FAR = [[0, 0, 0], [32, 32, 1]], [[300, 0, 0], [300, 32, 0]]


def test_openais_distances_are_float16_where_a_block_is_finite():
    np.testing.assert_array_equal(
        squared_radii(np.array(NEAR), k=1, distances="openai-float16"), [2048, 2048]
    )


def test_openais_distances_are_float32_in_a_whole_block_where_one_overflows():
    found = squared_radii(np.array(NEAR + FAR), k=1, distances="openai-float16")
    np.testing.assert_array_equal(found, [2049, 2049, 1024, 1024])


def test_an_overflow_in_one_of_openais_blocks_leaves_the_others_float16():
    with mock.patch.object(module, "BLOCK_ROWS", 2):
        found = squared_radii(np.array(NEAR + FAR), k=1, distances="openai-float16")
    np.testing.assert_array_equal(found, [2048, 2048, 1024, 1024])


def test_openais_blocks_do_not_depend_on_the_pieces():
    rows = _features(50, 6, seed=27, scale=45)  # some blocks of these overflow
    with mock.patch.object(module, "BLOCK_ROWS", 8):
        whole = squared_radii(rows, distances="openai-float16")
        for piece in (1, 3, 8, 20):
            pieces = [rows[start : start + piece] for start in range(0, 50, piece)]
            found = [
                squared_radii_of(rows[start : start + 8], pieces, distances="openai-float16")
                for start in range(0, 50, 8)
            ]
            np.testing.assert_array_equal(np.concatenate(found), whole)
    halves = whole == whole.astype(np.float16)
    assert 0 < halves.sum() < 50


def test_queries_of_more_than_one_of_openais_blocks_are_refused():
    rows = np.zeros((10_001, 1), dtype=np.float32)
    with pytest.raises(ValueError, match="at most 10000 queries .* found 10001"):
        squared_radii_of(rows, [rows], distances="openai-float16")
