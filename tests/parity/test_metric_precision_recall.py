"""Precision and recall by blocks, and with the rounding of OpenAI's evaluator, against its stored radii and
against float64 truths."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from metrics.in_memory import precision_recall
from parity.metric_goldens import (
    ADM,
    FEATURE_CASES,
    FOLDER,
    RADII_CASES,
    TRUTH,
    features,
    having,
    longest_squared,
    openai_is_exact,
)

from dgflow.metrics.openai_distances import BLOCK_ROWS, distance_strips
from dgflow.metrics.precision_recall import inside_any_ball_of, squared_radii_of

ADM_CASES = having("adm_precision", "adm_recall", library=ADM)
ADM_RADII_CASES = [case for case in FEATURE_CASES if (FOLDER / f"adm_radii_{case}.npz").exists()]
COUNTED_CASES = [case for case in RADII_CASES if case in having("exact_precision", "exact_recall")]
WIDE = 512  # features; the products of more are added in another order than TensorFlow's
PLACE = 2.0**-10  # the last place of a float16 number, relative
E2E = [FOLDER / "e2e_activations.npz"] if (FOLDER / "e2e_activations.npz").exists() else []


@cache
def _openai_radii(case: str) -> dict[str, np.ndarray]:
    found = {}
    for side, rows in zip(("real", "fake"), features(case), strict=True):
        pieces = [rows[start : start + 700] for start in range(0, len(rows), 700)]
        blocks = [rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)]
        found[side] = np.concatenate(
            [squared_radii_of(block, pieces, distances="openai-float16") for block in blocks]
        )
    return found


def _openai_share_inside(queries: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> float:
    balls = [
        (centres[start : start + 900], radii[start : start + 900]) for start in range(0, len(centres), 900)
    ]
    blocks = [queries[start : start + BLOCK_ROWS] for start in range(0, len(queries), BLOCK_ROWS)]
    return float(
        np.concatenate(
            [inside_any_ball_of(block, balls, distances="openai-float16") for block in blocks]
        ).mean()
    )


def _is_float16(values: np.ndarray) -> bool:
    limit = float(np.finfo(np.float16).max)
    return bool((np.abs(values) <= limit).all() and (values == values.astype(np.float16)).all())


@pytest.mark.parametrize("side", ["real", "fake"])
@pytest.mark.parametrize("case", ADM_RADII_CASES)
def test_openais_radii_are_equal(case, side):
    expected = np.load(FOLDER / f"adm_radii_{case}.npz")[f"{side}_radii_sq"]
    found = _openai_radii(case)[side].astype(np.float32)
    is_half, is_wide = _is_float16(expected), features(case)[0].shape[1] > WIDE
    if is_half and not is_wide:
        # All are with the processors tried; another order of adding float32 products may move one in a
        # thousand to the next float16 number.
        assert (found != expected).sum() <= max(1, 1e-3 * len(found))
        np.testing.assert_allclose(found, expected, rtol=2**-10)
    # Differences of long vectors: a place of |x|^2, of both of them where that is float16, outweighs one of
    # the distance
    else:
        np.testing.assert_allclose(
            found, expected, rtol=0, atol=(2**-9 if is_half else 1e-6) * longest_squared(case)
        )


@pytest.mark.parametrize("case", ADM_CASES)
def test_openais_precision_and_recall_are_equal(case):
    (real, fake), radii = features(case), _openai_radii(case)
    for name, queries, centres, side in (("precision", fake, real, "real"), ("recall", real, fake, "fake")):
        expected = ADM["features"][case][f"adm_{name}"]
        found, fewer, more = (
            _openai_share_inside(queries, centres, (factor * radii[side]).astype(radii[side].dtype))
            for factor in (1, 1 - 2 * PLACE, 1 + 2 * PLACE)
        )
        # Images whose distance and radius are the same float16 number, or neighbours: the order of adding
        # float32 products, which processors and the number of threads choose, decides on which side they are.
        ties = max(more - found, found - fewer)
        one_image = 1.01 / len(queries) if real.shape[1] > WIDE else 0
        allowed = 1e-9 if openai_is_exact(case) else max(1e-3, one_image, ties + 1e-9)
        assert found == pytest.approx(expected, abs=allowed)


@pytest.mark.parametrize("case", having("adm_block_first_is_fp16", library=ADM))
def test_openais_first_block_is_float16_where_it_was(case):
    real, fake = (torch.from_numpy(rows[:BLOCK_ROWS]) for rows in features(case))
    _, distances = next(distance_strips(real, fake))
    is_half = bool((distances == distances.half()).all())
    assert is_half == ADM["features"][case]["adm_block_first_is_fp16"]


@pytest.mark.parametrize("path", E2E, ids=lambda path: path.stem)
def test_openais_precision_and_recall_of_2048_features_are_equal_but_for_one_image(path):
    stored, expected = np.load(path), json.loads((FOLDER / "adm_e2e.json").read_text())
    real, fake = stored["ref_pool"], stored["sample_pool"]
    found = precision_recall(real, fake, distances="openai-float16")
    assert found.precision == pytest.approx(expected["precision"], abs=1.01 / len(fake))
    assert found.recall == pytest.approx(expected["recall"], abs=1.01 / len(real))


@pytest.mark.parametrize("case", RADII_CASES)
def test_radii_of_streamed_blocks_equal_the_float64_truth(case):
    expected = np.load(FOLDER / f"exact_radii_{case}.npz")
    for side, rows in zip(("real", "fake"), features(case), strict=True):
        pieces = [rows[start : start + 333] for start in range(0, len(rows), 333)]
        found = [squared_radii_of(block, reversed(pieces)) for block in np.array_split(rows, 3)]
        np.testing.assert_allclose(np.concatenate(found), expected[f"{side}_radii_sq"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("case", COUNTED_CASES)
def test_precision_and_recall_of_streamed_blocks_count_exactly_what_float64_differences_give(case):
    (real, fake), truth = features(case), TRUTH["features"][case]
    stored = np.load(FOLDER / f"exact_radii_{case}.npz")
    for name, queries, centres, side in (("precision", fake, real, "real"), ("recall", real, fake, "fake")):
        radii = np.concatenate([squared_radii_of(block, [centres]) for block in np.array_split(centres, 2)])
        np.testing.assert_allclose(radii, stored[f"{side}_radii_sq"], rtol=1e-12, atol=0)
        balls = list(zip(np.array_split(centres, 4), np.array_split(radii, 4), strict=True))
        inside = np.concatenate([inside_any_ball_of(block, balls) for block in np.array_split(queries, 3)])
        assert inside.sum() == round(truth[f"exact_{name}"] * len(queries))
