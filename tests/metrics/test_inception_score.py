"""Inception score: closed forms, splits by index, bits that do not depend on sharding or arrival."""

from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics.in_memory import inception_score

from dgflow.metrics.inception_score import InceptionScore, InceptionScoreAccumulator, SplitSums


def _logits(n: int, classes: int, seed: int) -> np.ndarray:
    return (3 * np.random.default_rng(seed).standard_normal((n, classes))).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 10, 1008])
def test_certain_and_evenly_spread_predictions_score_the_number_of_classes(classes):
    score = inception_score(np.tile(1e4 * np.eye(classes), (2, 1)), split_size=classes)
    assert score.mean == pytest.approx(classes, rel=1e-12)
    assert score.std == pytest.approx(0, abs=1e-9)


def test_equal_predictions_score_one():
    assert inception_score(np.tile(_logits(1, 10, seed=0), (100, 1))).mean == pytest.approx(1, rel=1e-12)


def test_two_predictions_score_the_exponential_of_their_jensen_shannon_divergence():
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.1, 0.8])
    middle = (p + q) / 2
    expected = np.exp(np.sum(p * np.log(p / middle) + q * np.log(q / middle)) / 2)
    assert inception_score(np.log(np.stack([p, q]))).mean == pytest.approx(expected, rel=1e-13)


def test_a_constant_added_to_a_rows_logits_changes_nothing():
    logits = _logits(300, 10, seed=1).astype(np.float64)
    shifted = logits + np.linspace(-500, 500, 300)[:, None]
    assert inception_score(shifted).mean == pytest.approx(inception_score(logits).mean, rel=1e-12)


def test_splits_are_contiguous_ranges_of_the_index_and_a_short_last_one_counts_alike():
    logits = _logits(1250, 10, seed=2)
    score = inception_score(logits, split_size=500)
    alone = [inception_score(part).mean for part in (logits[:500], logits[500:1000], logits[1000:])]
    assert score.per_split == pytest.approx(alone, rel=1e-13)
    assert (score.mean, score.std) == pytest.approx((np.mean(alone), np.std(alone)), rel=1e-12)


def test_the_default_split_has_5000_rows():
    assert len(inception_score(_logits(10_001, 2, seed=3)).per_split) == 3


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2600), max_size=10), st.sampled_from([5000, 1000, 700, 13]))
def test_any_sharding_of_the_same_logits_gives_the_same_bits(cuts, split_size):
    logits = _logits(2600, 4, seed=5)
    accumulator = InceptionScoreAccumulator(split_size=split_size)
    for piece in np.split(logits, sorted(cuts)):
        accumulator.add(piece)
    assert InceptionScore.of(accumulator.sums().total()) == inception_score(logits, split_size)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_ranges_that_cut_splits_and_are_merged_as_they_arrive_have_the_bits_of_one_pass(workers):
    logits = _logits(23_500, 4, seed=6)
    held = [[] for _ in range(workers)]
    for number, first in enumerate(range(0, len(logits), 8000)):
        accumulator = InceptionScoreAccumulator(first)
        accumulator.add(logits[first : first + 8000])
        held[number % workers].append(accumulator.sums())
    states = [reduce(add, reversed(sums)) for sums in held if sums]
    assert InceptionScore.of(reduce(add, reversed(states)).total(blocks=24)) == inception_score(logits)


def test_a_range_that_begins_inside_a_block_is_refused():
    with pytest.raises(ValueError, match="logits: .* multiple of 1000, found 500"):
        InceptionScoreAccumulator(500)


def test_parts_of_one_split_add_up_to_it():
    logits = _logits(900, 4, seed=7)
    assert (SplitSums.of(logits[:350]) + SplitSums.of(logits[350:])).score == pytest.approx(
        SplitSums.of(logits).score, rel=1e-13
    )


def test_a_row_that_is_not_finite_is_named():
    logits = _logits(20, 4, seed=8)
    logits[11, 0] = np.nan
    with pytest.raises(ValueError, match="logits: row 11 is not finite"):
        inception_score(logits)


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="at least 1 row"):
        inception_score(np.empty((0, 4)))


def test_a_split_size_below_one_is_refused():
    with pytest.raises(ValueError, match="split_size >= 1, found 0"):
        inception_score(_logits(5, 4, seed=9), split_size=0)
