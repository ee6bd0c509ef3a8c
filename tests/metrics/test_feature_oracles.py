"""torch-fidelity and clean-fid on the same random features: Fréchet distance, kernel distance, Inception
score."""

import numpy as np
import pytest
import torch
from cleanfid.fid import frechet_distance as cleanfid_frechet_distance
from cleanfid.fid import kernel_distance as cleanfid_kernel_distance
from metrics.in_memory import inception_score, kernel_distance
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from dgflow.metrics.frechet import Moments, frechet_distance


def _features(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) / np.sqrt(d) + shift


@pytest.mark.parametrize("n", [60, 700], ids=["few rows", "many rows"])
def test_clean_fid_gives_the_same_frechet_distance(n):
    a, b = Moments.of(_features(n, 32, seed=7)), Moments.of(_features(n + 50, 32, seed=8, shift=0.3))
    assert frechet_distance(a, b) == pytest.approx(
        float(cleanfid_frechet_distance(a.mean, a.covariance, b.mean, b.covariance)), rel=1e-9
    )


def test_torch_fidelity_gives_the_same_frechet_distance():
    real, fake = _features(700, 32, seed=9), _features(650, 32, seed=10)
    statistics = [fid_features_to_statistics(torch.from_numpy(rows)) for rows in (fake, real)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)
    assert frechet_distance(Moments.of(real), Moments.of(fake)) == pytest.approx(
        expected["frechet_inception_distance"], rel=1e-9
    )


@pytest.mark.parametrize(("subsets", "size", "seed"), [(7, 100, 2020), (3, 400, 5)])
def test_torch_fidelity_gives_the_same_kernel_distance(subsets, size, seed):
    real, fake = _features(500, 24, seed=11), _features(400, 24, seed=12, shift=0.2)
    settings = {"kid_subsets": subsets, "kid_subset_size": size, "rng_seed": seed, "verbose": False}
    expected = kid_features_to_metric(torch.from_numpy(fake), torch.from_numpy(real), **settings)
    found = kernel_distance(real, fake, subsets, size, seed)
    assert found.mean == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-9)
    assert found.std == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-9)


def test_clean_fid_gives_the_same_kernel_distance_from_its_seed():
    real, fake = _features(500, 24, seed=13), _features(400, 24, seed=14, shift=0.2)
    state = np.random.get_state()
    try:
        np.random.seed(3)
        expected = cleanfid_kernel_distance(real, fake, num_subsets=6, max_subset_size=150)
    finally:
        np.random.set_state(state)
    assert kernel_distance(real, fake, subsets=6, subset_size=150, seed=3).mean == pytest.approx(
        expected, rel=1e-9
    )


@pytest.mark.parametrize("splits", [1, 4])
def test_torch_fidelity_gives_the_same_inception_score(splits):
    logits = 3 * np.random.default_rng(4).standard_normal((1000, 12))
    expected = isc_features_to_metric(torch.from_numpy(logits), splits=splits, shuffle=False)
    score = inception_score(logits, split_size=1000 // splits)
    assert score.mean == pytest.approx(expected["inception_score_mean"], rel=1e-10)
    assert score.std == pytest.approx(expected["inception_score_std"], abs=1e-10)
