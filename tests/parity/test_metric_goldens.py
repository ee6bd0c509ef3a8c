"""The metrics against stored outputs of OpenAI's evaluator, EDM, clean-fid, pytorch-fid, torch-fidelity and
float64 truths.

The goldens' README gives the tolerances.
"""

import json
from functools import cache

import numpy as np
import pytest
from metrics.in_memory import inception_score, precision_recall, squared_radii
from parity.metric_goldens import (
    ADM,
    FEATURE_CASES,
    FOLDER,
    LOGITS,
    LOGITS_CASES,
    RADII_CASES,
    STATS_CASES,
    TRUTH,
    features,
    having,
    is_beyond_float16,
    is_singular,
    is_stated,
    numbers,
    openai_is_exact,
)

from dgflow.metrics.frechet import Gaussian, Moments, frechet_distance
from dgflow.metrics.inception_score import InceptionScore
from dgflow.metrics.precision_recall import PrecisionRecall

FLOAT32_MEANS = numbers(
    r"cleanfid_fid\w*|pytorch_fid_[\w.]+|torch_fidelity_[\w.]+_fid|dgm_eval_fd\w*"
) + numbers(r"adm_fid", ADM)


@cache
def _fid(case: str) -> float:
    real, fake = features(case)
    return frechet_distance(Moments.of(real), Moments.of(fake))


@cache
def _fid_of_float32_means(case: str) -> float:
    # NumPy averages float32 rows in float32.
    real, fake = (
        Gaussian(np.asarray(np.mean(rows, axis=0)), Moments.of(rows).covariance) for rows in features(case)
    )
    return frechet_distance(real, fake)


@cache
def _precision_recall(case: str) -> PrecisionRecall:
    return precision_recall(*features(case))


def _rounding(case: str) -> float:
    return 1e-7 if is_singular(case) else 1e-9


def test_the_folder_holds_cases_of_every_kind():
    assert min(len(cases) for cases in (FEATURE_CASES, STATS_CASES, RADII_CASES, LOGITS_CASES)) >= 1


@pytest.mark.parametrize(("case", "stored"), numbers(r"exact_fid"))
def test_fid_equals_the_float64_truth(case, stored):
    assert _fid(case) == pytest.approx(stored, rel=_rounding(case), abs=1e-10)


@pytest.mark.parametrize(("case", "stored"), numbers(r"edm_fid"))
def test_fid_equals_edms(case, stored):
    assert _fid(case) == pytest.approx(stored, rel=_rounding(case), abs=1e-10)


@pytest.mark.parametrize(("case", "stored"), FLOAT32_MEANS)
def test_fid_of_float32_means_is_that_of_libraries_that_average_in_float32(case, stored):
    tolerance = (
        2e-6 if is_beyond_float16(case) else 1e-6
    )  # worst seen: 7e-8, of it nearly all from their sqrtm of singular matrices
    assert _fid_of_float32_means(case) == pytest.approx(stored, rel=tolerance, abs=1e-10)


@pytest.mark.parametrize(("case", "stored"), FLOAT32_MEANS)
def test_fid_agrees_with_libraries_that_average_in_float32(case, stored):
    stated = 2e-6 if is_beyond_float16(case) else 1e-6
    assert _fid(case) == pytest.approx(
        stored, rel=stated if is_stated(case) else 5e-6, abs=1e-10
    )  # other means, other rounding


@pytest.mark.parametrize(
    "stored", [path for path in [FOLDER / "e2e_activations.npz"] if path.exists()], ids=lambda path: path.stem
)
def test_fid_of_2048_wide_features_of_fewer_images_equals_the_float64_truth(stored):
    arrays = np.load(stored)
    expected = json.loads((FOLDER / "adm_e2e.json").read_text())["exact_fid"]
    found = frechet_distance(Moments.of(arrays["ref_pool"]), Moments.of(arrays["sample_pool"]))
    assert found == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("case", STATS_CASES)
def test_moments_equal_edm_style_statistics(case):
    stats = np.load(FOLDER / f"stats_{case}.npz")
    for side, rows in zip(("real", "fake"), features(case), strict=True):
        moments = Moments.of(rows)
        scale = np.abs(stats[f"sigma_{side}"]).max()
        np.testing.assert_allclose(moments.mean, stats[f"mu_{side}"], rtol=1e-12, atol=1e-12 * np.sqrt(scale))
        np.testing.assert_allclose(moments.covariance, stats[f"sigma_{side}"], rtol=0, atol=1e-10 * scale)


@pytest.mark.parametrize("case", [case for case in STATS_CASES if case in having("exact_fid")])
def test_fid_from_stored_statistics_equals_the_float64_truth(case):
    stats = np.load(FOLDER / f"stats_{case}.npz")
    real, fake = (Gaussian(stats[f"mu_{side}"], stats[f"sigma_{side}"]) for side in ("real", "fake"))
    assert frechet_distance(real, fake) == pytest.approx(
        TRUTH["features"][case]["exact_fid"], rel=_rounding(case), abs=1e-10
    )


@pytest.mark.parametrize("case", having("exact_precision", "exact_recall"))
def test_precision_and_recall_count_exactly_what_float64_differences_give(case):
    real, fake = features(case)
    found, truth = _precision_recall(case), TRUTH["features"][case]
    assert round(found.precision * len(fake)) == round(truth["exact_precision"] * len(fake))
    assert round(found.recall * len(real)) == round(truth["exact_recall"] * len(real))
    assert found.precision == pytest.approx(truth["exact_precision"], rel=1e-12)
    assert found.recall == pytest.approx(truth["exact_recall"], rel=1e-12)


@pytest.mark.parametrize(("case", "stored"), numbers(r"torch_fidelity_f_score"))
def test_f1_agrees_with_torch_fidelity(case, stored):
    found, truth = _precision_recall(case), TRUTH["features"][case]
    miscounted = [
        abs(truth.get(f"torch_fidelity_f32_{name}", exact) - exact) for name, exact in vars(found).items()
    ]
    assert found.f1 == pytest.approx(
        stored, abs=1e-6 + 2 * sum(miscounted)
    )  # by float32 distances; below 1e-7 in the README's cases


@pytest.mark.parametrize("case", having("adm_precision", "adm_recall", library=ADM))
def test_precision_and_recall_agree_with_openais_evaluator(case):
    found, published = _precision_recall(case), ADM["features"][case]
    for name, queries in zip(("recall", "precision"), features(case), strict=True):
        rounded = (
            0.01 if is_stated(case) else max(0.01, 2 / len(queries))
        )  # its distances are float16 unless they overflow
        tolerance = 0 if openai_is_exact(case) else rounded
        assert getattr(found, name) == pytest.approx(published[f"adm_{name}"], abs=tolerance + 1e-9)


@pytest.mark.parametrize("case", RADII_CASES)
def test_radii_equal_the_float64_truth(case):
    expected = np.load(FOLDER / f"exact_radii_{case}.npz")
    for side, rows in zip(("real", "fake"), features(case), strict=True):
        np.testing.assert_allclose(squared_radii(rows), expected[f"{side}_radii_sq"], rtol=1e-12, atol=0)


def _scores(case: str, library: dict, prefix: str) -> list[tuple[InceptionScore, list[float]]]:
    found = [(key, value) for key, value in library["logits"][case].items() if key.startswith(prefix)]
    assert found
    return [
        (inception_score(LOGITS[case], int(key.rsplit("_", 1)[1])), np.atleast_1d(np.float64(value)).tolist())
        for key, value in found
    ]


@pytest.mark.parametrize("case", LOGITS_CASES)
def test_inception_score_equals_the_float64_truth(case):
    for score, (mean, std) in _scores(case, TRUTH, "float64_contiguous_split_size_"):
        assert score.mean == pytest.approx(mean, rel=1e-10)
        assert score.std == pytest.approx(std, abs=1e-10)


@pytest.mark.parametrize("case", [case for case in LOGITS_CASES if case in ADM["logits"]])
def test_inception_score_agrees_with_openais_evaluator_and_is_finite_where_that_is_nan(case):
    for score, (mean,) in _scores(case, ADM, "adm_is_split_size_"):
        assert np.isfinite(score.mean) if np.isnan(mean) else score.mean == pytest.approx(mean, rel=5e-6)
