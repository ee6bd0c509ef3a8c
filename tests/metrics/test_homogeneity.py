"""Tests that groups are of one law: scipy's chi-square test, torch-fidelity's order, and how often chance
is taken for a difference."""

import numpy as np
import pytest
import torch
from metrics.in_memory import inception_score
from scipy.stats import chi2_contingency
from torch_fidelity.metric_isc import isc_features_to_metric

from dgflow.metrics.homogeneity import disorder, unlike_class_counts
from dgflow.metrics.inception_score import InceptionScore, InceptionScoreAccumulator, shuffled_positions

UNKNOWN = np.full(4000, -1)


def scores(logits, size):
    accumulator = InceptionScoreAccumulator(split_size=size)
    accumulator.add(logits)
    return accumulator.sums().total()


@pytest.mark.parametrize("more", range(9, 40, 3))
def test_class_counts_are_unlike_where_scipys_chi_square_test_falls_below_one_in_a_thousand(more):
    samples, reference = np.repeat([0, 1], [50, 50]), np.repeat([0, 1], [50 + more, 50 - more])
    table = [np.bincount(side) for side in (samples, reference)]
    p = float(chi2_contingency(table, correction=False)[1])  # type: ignore[arg-type]
    assert bool(unlike_class_counts(samples, reference)) == (p < 1e-3)


def test_classes_that_one_side_lacks_are_named_first():
    (warning,) = unlike_class_counts(np.repeat(np.arange(3), 100), np.repeat(np.arange(2), 100))
    assert "class 2 is 33.3% of the samples and 0.0% of the reference" in warning


@pytest.mark.parametrize(("share", "warned"), [(0.54, False), (0.56, True)])
def test_class_counts_are_unlike_from_a_small_effect_on_however_many_images_show_it(share, warned):
    most = round(50_000 * share)
    sides = np.repeat([0, 1], [25_000, 25_000]), np.repeat([0, 1], [most, 50_000 - most])
    assert bool(unlike_class_counts(*sides)) == warned


def test_uniform_labels_are_not_unlike_those_of_imagenets_training_set():
    per_class = np.concatenate([np.full(895, 1300), np.linspace(732, 1300, 105).astype(int)])
    uniform = np.random.default_rng(0).integers(0, 1000, 50_000)
    assert unlike_class_counts(uniform, np.repeat(np.arange(1000), per_class)) == []


def test_few_images_of_many_classes_are_not_judged():
    assert unlike_class_counts(np.zeros(40, int), np.arange(40)) == []


@pytest.mark.parametrize("spread", [0.5, 3.0, 20.0])
@pytest.mark.parametrize("splits", [2, 10])
def test_predictions_in_random_order_are_almost_never_taken_for_ordered(spread, splits):
    random = np.random.default_rng(5)
    for _ in range(20):
        logits = spread * random.standard_normal((4000, 12))
        assert disorder(UNKNOWN, scores(logits, 4000 // splits), 4000 // splits) == ""


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_predictions_in_order_are_noticed_without_labels(share):
    random = np.random.default_rng(6)
    classes = np.arange(4000) * 12 // 4000
    random.shuffle(classes[: int((1 - share) * 4000)])
    logits = 6 * np.eye(12)[classes] + random.standard_normal((4000, 12))
    assert disorder(UNKNOWN, scores(logits, 2000), 2000) == "the predicted classes differ between splits"


def test_the_random_order_is_torch_fidelitys():
    logits = np.random.default_rng(7).normal(size=(1000, 8)) + 4 * np.eye(8)[np.arange(1000) * 8 // 1000]
    theirs = isc_features_to_metric(torch.from_numpy(logits), splits=10, shuffle=True, rng_seed=2020)
    accumulator = InceptionScoreAccumulator(split_size=100, positions=shuffled_positions(1000))
    accumulator.add(logits)
    ours = InceptionScore.of(accumulator.sums().total())
    assert ours.mean == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert ours.std == pytest.approx(theirs["inception_score_std"], rel=1e-9)
    assert ours.mean > 2 * inception_score(logits, 100).mean
