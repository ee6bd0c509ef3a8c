"""Precision and recall: cases by hand, scipy and torch-fidelity as oracles, ties, the same bits for any block size and row order."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch_fidelity.metric_prc import prc_features_to_metric

from dgflow.metrics import PrecisionRecall, inside_any_ball, precision_recall, squared_radii


def _features(n: int, d: int, seed: int, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal((n, d))).astype(np.float32)


def _oracle(real: np.ndarray, fake: np.ndarray, k: int = 3) -> PrecisionRecall:
    """From whole distance matrices, differences squared in float64."""
    real, fake = real.astype(np.float64), fake.astype(np.float64)
    between = cdist(real, fake, "sqeuclidean")
    real_radii, fake_radii = (np.sort(cdist(rows, rows, "sqeuclidean"), axis=1)[:, k] for rows in (real, fake))
    return PrecisionRecall(float((between <= real_radii[:, None]).any(axis=0).mean()), float((between <= fake_radii).any(axis=1).mean()))


def test_a_case_on_the_line_counts_a_fake_on_the_edge_of_a_ball_as_inside():
    real, fake = np.array([[0.0], [1.0]]), np.array([[2.0], [10.0]])
    assert precision_recall(real, fake, k=1) == PrecisionRecall(precision=0.5, recall=1.0)  # radii 1, 1 and 8, 8


def test_radii_reach_the_kth_other_row():
    rows = np.array([[0.0], [1.0], [3.0], [7.0]])
    np.testing.assert_array_equal(squared_radii(rows, k=1), [1, 1, 4, 16])
    np.testing.assert_array_equal(squared_radii(rows, k=3), [49, 36, 16, 49])


def test_identical_sets_have_precision_and_recall_one():
    rows = _features(200, 16, seed=0)
    assert precision_recall(rows, np.random.default_rng(1).permutation(rows)) == PrecisionRecall(1, 1)


def test_disjoint_sets_have_precision_and_recall_zero():
    assert precision_recall(_features(100, 16, seed=2), _features(120, 16, seed=3) + 100) == PrecisionRecall(0, 0)


def test_fakes_from_one_mode_of_two_have_full_precision_and_half_recall():
    mode = _features(150, 4, seed=4)
    assert precision_recall(np.concatenate([mode, mode + 1000]), mode) == PrecisionRecall(1, 0.5)


def test_f1_is_the_harmonic_mean_and_zero_where_both_are_zero():
    assert PrecisionRecall(0.5, 1.0).f1 == pytest.approx(2 / 3)
    assert PrecisionRecall(0.0, 0.0).f1 == 0


def test_torch_fidelity_gives_the_same_numbers():
    real, fake = _features(300, 16, seed=5).astype(np.float64), _features(350, 16, seed=6, scale=0.9).astype(np.float64)
    options = {"prc_neighborhood": 3, "prc_batch_size": 1000, "save_cpu_ram": False, "verbose": False}
    expected = prc_features_to_metric(torch.from_numpy(fake), torch.from_numpy(real), **options)
    found = precision_recall(real, fake)
    expected = [expected[name] for name in ("precision", "recall", "f_score")]
    assert [found.precision, found.recall, found.f1] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("block_size", [2, 7, 32, 1000])
def test_every_block_size_gives_the_counts_of_whole_distance_matrices(k, block_size):
    real, fake = _features(40, 6, seed=7), _features(30, 6, seed=8, scale=0.8)
    assert precision_recall(real, fake, k=k, block_size=block_size) == _oracle(real, fake, k)


def test_features_far_from_the_origin_are_as_exact_as_others():
    # Squared norms of 4e8 against squared distances of about 1: in |a|^2 + |b|^2 - 2 a.b most digits cancel.
    offset = np.float32(1e4) * np.array([1, -1, 1, 1], dtype=np.float32)
    real, fake = _features(400, 4, seed=9) + offset, _features(400, 4, seed=10) + offset
    far = np.full((1, 4), -1e6, dtype=np.float32)  # and one row that no origin suits
    real, fake = np.concatenate([far, real]), np.concatenate([fake, far])
    assert precision_recall(real, fake, block_size=64) == _oracle(real, fake)


def test_repeated_rows_have_radius_zero_and_cover_their_copies_alone():
    rows = _features(40, 32, seed=11, scale=np.pi)
    repeated = np.repeat(rows, 5, axis=0)
    near_misses = np.nextafter(rows, np.float32(np.inf))
    np.testing.assert_array_equal(squared_radii(repeated, block_size=64), 0)
    found = inside_any_ball(np.concatenate([rows, near_misses]), repeated, np.zeros(200), block_size=64)
    np.testing.assert_array_equal(found, [True] * 40 + [False] * 40)


def test_a_query_exactly_on_the_edge_is_inside_in_any_direction():
    # Each radius is the distance to a row that is itself the query, so only bits that agree in both passes count it.
    rows = _features(300, 37, seed=12, scale=np.pi)
    squared = cdist(rows.astype(np.float64), rows.astype(np.float64), "sqeuclidean")
    third = np.argsort(squared, axis=1)[:, 3]
    radii = squared_radii(rows, block_size=128)
    for centre in range(0, 300, 10):
        assert inside_any_ball(rows[third[centre]][None], rows[centre][None], radii[centre : centre + 1])[0]
        assert not inside_any_ball(rows[third[centre]][None], rows[centre][None], np.nextafter(radii[centre : centre + 1], 0))[0]


def test_neighbours_that_come_last_are_found():
    # Rows in order of their cluster, each block of columns nearer to the last rows than all blocks before.
    rows = np.concatenate([_features(64, 3, seed=20 + cluster) + 50 * cluster for cluster in range(6)])
    expected = np.sort(cdist(rows.astype(np.float64), rows.astype(np.float64), "sqeuclidean"), axis=1)[:, 3]
    np.testing.assert_allclose(squared_radii(rows, block_size=64), expected, rtol=1e-13)


def test_the_order_of_the_rows_and_the_block_size_change_no_bit_of_a_radius():
    rows = _features(700, 53, seed=13)
    order = np.random.default_rng(14).permutation(700)
    expected = squared_radii(rows)
    for block_size in (64, 100, 699):
        assert squared_radii(rows[order], block_size=block_size).tobytes() == expected[order].tobytes()


def test_the_number_of_threads_changes_no_bit_of_a_radius():
    rows = _features(700, 53, seed=15)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(squared_radii(rows, block_size=256).tobytes())
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_queries_and_centres_can_be_split_and_joined_with_or():
    queries, centres = _features(200, 5, seed=16), _features(150, 5, seed=17)
    radii = squared_radii(centres)
    whole = inside_any_ball(queries, centres, radii)
    assert 0 < whole.sum() < 200
    parts = [inside_any_ball(queries, centres[part], radii[part]) for part in (slice(0, 40), slice(40, 150))]
    np.testing.assert_array_equal(parts[0] | parts[1], whole)
    np.testing.assert_array_equal(np.concatenate([inside_any_ball(part, centres, radii) for part in np.split(queries, [77])]), whole)


def test_read_only_arrays_are_taken_without_a_warning(recwarn):
    rows = _features(20, 4, seed=18)
    rows.flags.writeable = False
    precision_recall(rows, rows)
    assert not recwarn.list


def test_too_few_rows_for_k_neighbours_are_refused():
    with pytest.raises(ValueError, match="at least k \\+ 1 = 4 rows of features, found 3"):
        precision_recall(_features(10, 4, seed=19), _features(3, 4, seed=19))


def test_dimensions_that_differ_are_both_named():
    with pytest.raises(ValueError, match="found 5 and 4"):
        precision_recall(_features(10, 4, seed=19), _features(10, 5, seed=19))


def test_a_row_that_is_not_finite_is_named_with_its_side():
    fake = _features(10, 4, seed=19)
    fake[6, 1] = np.inf
    with pytest.raises(ValueError, match="fake features: row 6 is not finite"):
        precision_recall(_features(10, 4, seed=19), fake)


def test_radii_that_are_not_one_a_centre_are_refused():
    with pytest.raises(ValueError, match=r"shape \[10\], found shape \[9\]"):
        inside_any_ball(_features(3, 4, seed=19), _features(10, 4, seed=19), np.zeros(9))
