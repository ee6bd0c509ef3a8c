"""Doubtful inputs give a warning with numbers, wrong ones an error that names the fault, and valid ones
neither.
"""

import numpy as np
import pytest
import scipy.stats

from dgflow.metrics import checks
from dgflow.metrics.protocols import CUSTOM, PROTOCOLS

ADM = PROTOCOLS["adm"]


def test_another_number_of_samples_than_the_protocols_is_said_with_both_numbers():
    (warning,) = checks.sample_count(10_000, 2048, ADM)
    assert "10,000 samples, but protocol adm uses 50,000: FID and sFID fall as n grows" in warning
    assert (
        checks.sample_count(50_000, 2048, ADM)
        == checks.sample_count(7000, 2048, CUSTOM)
        == checks.sample_count(7000, 2048, None)
        == []
    )


def test_fid_and_sfid_say_the_same_of_the_protocol_so_that_one_line_is_enough():
    fid, sfid = checks.sample_count(100, 2048, ADM), checks.sample_count(100, 2023, ADM, "sFID")
    assert (fid[1], len(fid), len(sfid)) == (sfid[1], 2, 2)
    assert sfid[0].startswith("sFID is not meaningful")


@pytest.mark.parametrize(("n", "warned"), [(2047, 1), (2048, 1), (2049, 0)])
def test_a_covariance_is_singular_up_to_as_many_samples_as_features(n, warned):
    found = checks.sample_count(n, 2048, None)
    assert len(found) == warned
    assert all(
        f"FID is not meaningful: the covariance of 2,048 features from {n:,} samples is singular" in line
        for line in found
    )


def test_that_limit_is_the_rank_of_a_covariance():
    features = np.random.default_rng(0).standard_normal((9, 8))
    assert [np.linalg.matrix_rank(np.cov(features[:n].T)) == 8 for n in (8, 9)] == [
        not checks.sample_count(n, 8, None) for n in (8, 9)
    ]


def test_another_number_of_reference_images_than_the_protocols_is_said():
    (warning,) = checks.manifold_count(50_000, ADM)
    assert "50,000 reference images, but protocol adm uses 10,000" in warning
    assert (
        checks.manifold_count(10_000, ADM)
        == checks.manifold_count(50_000, PROTOCOLS["clean"])
        == checks.manifold_count(5, None)
        == []
    )


def test_missing_and_frequent_classes_are_named():
    labels = np.repeat(np.arange(10), [0, 100, 100, 300, 100, 100, 100, 40, 0, 100])
    (warning,) = checks.class_balance(labels, 10)
    assert "94.0 expected per class" in warning
    assert "most: class 3 (300), " in warning
    assert "fewest: class 7 (40)" in warning
    assert "missing: class 0, 8" in warning


@pytest.mark.parametrize("seed", range(5))
def test_labels_drawn_at_random_and_labels_in_turn_are_well(seed):
    assert checks.class_balance(np.random.default_rng(seed).integers(0, 1000, 50_000), 1000) == []
    assert checks.class_balance(np.arange(50_000) % 1000, 1000) == []


@pytest.mark.parametrize("spare", range(60, 180, 10))
def test_the_warning_comes_where_scipys_chi_square_test_falls_below_one_in_a_million(spare):
    counts = np.full(20, 100)
    counts[3] += spare
    p = scipy.stats.chisquare(counts).pvalue
    assert bool(checks.class_balance(np.repeat(np.arange(20), counts), 20)) == (p < 1e-6)


@pytest.mark.parametrize(
    "labels", [None, np.array([-1] * 500), np.array([0] * 499 + [-1]), np.zeros(0, int), np.zeros(49, int)]
)
def test_labels_that_are_unknown_or_too_few_are_not_judged(labels):
    assert checks.class_balance(labels, 10) == []


def test_a_label_beyond_the_classes_is_an_error():
    with pytest.raises(ValueError, match="expected labels from 0 to 9, found 0 to 10"):
        checks.class_balance(np.arange(11), 10)


def test_images_of_one_colour_are_counted_and_named():
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    images[3], images[7] = 0, (200, 10, 30)
    indices = checks.constant_indices(images, first_index=100)
    assert indices == [103, 107]
    assert checks.constant_images(indices, 20) == ["2 of 20 images have a single colour: index 103, 107"]
    assert "index 0, 1, 2, 3, 4 and 3 more" in checks.constant_images(list(range(8)), 20)[0]
    assert checks.constant_images([], 20) == []
    assert checks.constant_indices([np.full((4, 5), 9, np.uint8), np.eye(4, dtype=np.uint8)]) == [0]


def test_images_that_repeat_pixel_for_pixel_are_counted():
    images = [
        np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8) for seed in (0, 1, 0, 2, 1, 0)
    ]
    (warning,) = checks.repeated_images(checks.pixel_digests(images))
    assert warning.startswith(
        "3 of 6 images repeat an earlier one pixel for pixel; the first is index 2, equal to index 0"
    )
    assert checks.repeated_images(checks.pixel_digests(images[:2])) == []


def test_samples_that_are_in_the_reference_are_refused():
    with pytest.raises(ValueError, match="samples are measured against themselves"):
        checks.check_apart(("abc", 0, 100), ("abc", 99, 200))
    checks.check_apart(("abc", 0, 100), ("abc", 100, 200))
    checks.check_apart(("abc", 0, 100), ("def", 0, 100))
