"""Precision, recall and radii against whole float64 distance matrices and against torch-fidelity, run side by
side."""

from unittest import mock

import numpy as np
import pytest
import torch
from metrics import in_memory
from metrics.in_memory import inside_any_ball, precision_recall, squared_radii
from scipy.spatial.distance import cdist
from torch_fidelity.metric_prc import prc_features_to_metric

from dgflow.metrics import exact_distances
from dgflow.metrics import precision_recall as module
from dgflow.metrics.precision_recall import PrecisionRecall


def _features(n: int, d: int, seed: int, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal((n, d))).astype(np.float32)


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return cdist(a.astype(np.float64), b.astype(np.float64), "sqeuclidean")


def _oracle(real: np.ndarray, fake: np.ndarray, k: int = 3) -> PrecisionRecall:
    between = _squared(real, fake)
    real_radii, fake_radii = (np.sort(_squared(rows, rows), axis=1)[:, k] for rows in (real, fake))
    return PrecisionRecall(
        float((between <= real_radii[:, None]).any(axis=0).mean()),
        float((between <= fake_radii).any(axis=1).mean()),
    )


def _torch_fidelity(real: np.ndarray, fake: np.ndarray, k: int) -> list[float]:
    options = {"prc_neighborhood": k, "prc_batch_size": 1000, "save_cpu_ram": False, "verbose": False}
    found = prc_features_to_metric(torch.from_numpy(fake), torch.from_numpy(real), **options)
    return [found[name] for name in ("precision", "recall", "f_score")]


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("n, m, d", [(300, 350, 16), (250, 90, 100), (40, 700, 3)])
def test_torch_fidelity_gives_the_same_numbers(n, m, d, k):
    real, fake = (
        _features(n, d, seed=5).astype(np.float64),
        _features(m, d, seed=6, scale=0.9).astype(np.float64),
    )
    found = precision_recall(real, fake, k)
    assert [found.precision, found.recall, found.f1] == pytest.approx(
        _torch_fidelity(real, fake, k), abs=1e-6
    )


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("size", [2, 7, 32, 1000])
def test_every_block_size_gives_the_counts_of_whole_distance_matrices(k, size):
    real, fake = _features(40, 6, seed=7), _features(30, 6, seed=8, scale=0.8)
    with (
        mock.patch.object(in_memory, "QUERY_ROWS", size + 1),
        mock.patch.object(module, "_CENTRE_ROWS", size),
        mock.patch.object(exact_distances, "_STRIP_ROWS", size // 2),
    ):
        assert precision_recall(real, fake, k=k) == _oracle(real, fake, k)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_ties_of_a_lattice_are_counted_as_whole_distance_matrices_count_them(k):
    real, fake = (
        np.random.default_rng(seed).integers(-2, 3, (n, 4)).astype(np.float32)
        for seed, n in ((30, 120), (31, 90))
    )
    assert precision_recall(real, fake, k=k) == _oracle(real, fake, k)


def test_wide_heavy_tailed_features_like_inceptions_have_the_radii_of_whole_distance_matrices():
    rows = np.exp(_features(400, 1024, seed=32) - 1)
    np.testing.assert_allclose(squared_radii(rows), np.sort(_squared(rows, rows), axis=1)[:, 3], rtol=1e-13)


def test_features_far_from_the_origin_are_as_exact_as_others():
    # Squared norms of 4e8 against squared distances of about 1: in |a|^2 + |b|^2 - 2 a.b most digits cancel.
    offset = np.float32(1e4) * np.array([1, -1, 1, 1], dtype=np.float32)
    real, fake = _features(400, 4, seed=9) + offset, _features(400, 4, seed=10) + offset
    far = np.full((1, 4), -1e6, dtype=np.float32)  # and one row that no origin suits
    real, fake = np.concatenate([far, real]), np.concatenate([fake, far])
    with mock.patch.multiple(module, _CENTRE_ROWS=64), mock.patch.object(exact_distances, "_STRIP_ROWS", 64):
        assert precision_recall(real, fake) == _oracle(real, fake)


def test_two_clusters_that_no_origin_suits_are_as_exact_as_others():
    # Float32 bounds leave nearly all pairs of a cluster open, and float64 ones take over.
    real, fake = (
        np.concatenate([_features(300, 8, seed) + 3e3, _features(300, 8, seed + 1) - 3e3])
        for seed in (40, 42)
    )
    assert precision_recall(real, fake) == _oracle(real, fake)


def test_a_query_exactly_on_the_edge_is_inside_in_any_direction():
    # Each radius is the distance to a row that is itself the query, so only bits that agree in both passes
    # count it.
    rows = _features(300, 37, seed=12, scale=np.pi)
    third = np.argsort(_squared(rows, rows), axis=1)[:, 3]
    radii = squared_radii(rows)
    for centre in range(0, 300, 10):
        assert inside_any_ball(rows[third[centre]][None], rows[centre][None], radii[centre : centre + 1])[0]
        assert not inside_any_ball(
            rows[third[centre]][None], rows[centre][None], np.nextafter(radii[centre : centre + 1], 0)
        )[0]


def test_neighbours_that_come_last_are_found():
    # Rows in order of their cluster, each block of centres nearer to the last rows than all blocks before.
    rows = np.concatenate([_features(64, 3, seed=20 + cluster) + 50 * cluster for cluster in range(6)])
    with mock.patch.multiple(module, _CENTRE_ROWS=64), mock.patch.object(exact_distances, "_STRIP_ROWS", 64):
        np.testing.assert_allclose(
            squared_radii(rows), np.sort(_squared(rows, rows), axis=1)[:, 3], rtol=1e-13
        )
