"""The metrics against stored outputs of OpenAI's evaluator, EDM, clean-fid, pytorch-fid, torch-fidelity and float64 truths.

The goldens' README gives the tolerances.
"""

import json

import numpy as np
import pytest
from parity.metric_goldens import ADM, FEATURE_CASES, FOLDER, LOGITS, LOGITS_CASES, RADII_CASES, STATS_CASES, TRUTH, features

from dgflow.metrics.frechet import Gaussian, Moments, frechet_distance
from dgflow.metrics.inception_score import InceptionScore, inception_score
from dgflow.metrics.precision_recall import precision_recall, squared_radii

SINGULAR = {"degenerate_n_lt_d", "singular_cols"}
ADM_IS_EXACT = {"duplicates_ties", "identical", "far", "fp16_overflow"}
FLOAT32_MEANS = ["cleanfid_fid_from_feats", "pytorch_fid_0.3.0", "torch_fidelity_0.4.0_fid", "dgm_eval_fd"]


@pytest.fixture(scope="module")
def fid_of():
    known: dict[str, float] = {}

    def fid(case: str) -> float:
        if case not in known:
            real, fake = features(case)
            known[case] = frechet_distance(Moments.of(real), Moments.of(fake))
        return known[case]

    return fid


@pytest.fixture(scope="module")
def precision_recall_of():
    known = {}

    def both(case: str):
        if case not in known:
            known[case] = precision_recall(*features(case))
        return known[case]

    return both


def test_the_folder_holds_cases_of_every_kind():
    assert min(len(cases) for cases in (FEATURE_CASES, STATS_CASES, RADII_CASES, LOGITS_CASES)) >= 4


@pytest.mark.parametrize("case", FEATURE_CASES)
def test_fid_equals_the_float64_truth(case, fid_of):
    assert fid_of(case) == pytest.approx(TRUTH["features"][case]["exact_fid"], rel=1e-7 if case in SINGULAR else 1e-9, abs=1e-10)


@pytest.mark.parametrize("case", FEATURE_CASES)
def test_fid_equals_edms(case, fid_of):
    assert fid_of(case) == pytest.approx(TRUTH["features"][case]["edm_fid"], rel=1e-7 if case in SINGULAR else 1e-9, abs=1e-10)


@pytest.mark.parametrize("library", FLOAT32_MEANS)
@pytest.mark.parametrize("case", FEATURE_CASES)
def test_fid_agrees_with_libraries_that_average_in_float32(case, library, fid_of):
    tolerance = 2e-6 if case in {"far", "fp16_overflow"} else 1e-6
    assert fid_of(case) == pytest.approx(TRUTH["features"][case][library], rel=tolerance, abs=1e-10)


@pytest.mark.parametrize("case", [case for case in FEATURE_CASES if case in ADM["features"]])
def test_fid_agrees_with_openais_evaluator(case, fid_of):
    tolerance = 2e-6 if case in {"far", "fp16_overflow"} else 1e-6
    assert fid_of(case) == pytest.approx(ADM["features"][case]["adm_fid"], rel=tolerance, abs=1e-10)


@pytest.mark.parametrize("stored", [path for path in [FOLDER / "e2e_activations.npz"] if path.exists()], ids=lambda path: path.stem)
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


@pytest.mark.parametrize("case", STATS_CASES)
def test_fid_from_stored_statistics_equals_the_float64_truth(case):
    stats = np.load(FOLDER / f"stats_{case}.npz")
    real, fake = (Gaussian(stats[f"mu_{side}"], stats[f"sigma_{side}"]) for side in ("real", "fake"))
    expected = TRUTH["features"][case]["exact_fid"]
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-7 if case in SINGULAR else 1e-9, abs=1e-10)


@pytest.mark.parametrize("case", FEATURE_CASES)
def test_precision_and_recall_count_exactly_what_float64_differences_give(case, precision_recall_of):
    real, fake = features(case)
    found, truth = precision_recall_of(case), TRUTH["features"][case]
    assert round(found.precision * len(fake)) == round(truth["exact_precision"] * len(fake))
    assert round(found.recall * len(real)) == round(truth["exact_recall"] * len(real))
    assert found.precision == pytest.approx(truth["exact_precision"], rel=1e-12)
    assert found.recall == pytest.approx(truth["exact_recall"], rel=1e-12)


@pytest.mark.parametrize("case", FEATURE_CASES)
def test_f1_agrees_with_torch_fidelity(case, precision_recall_of):
    assert precision_recall_of(case).f1 == pytest.approx(TRUTH["features"][case]["torch_fidelity_f_score"], abs=1e-6)


@pytest.mark.parametrize("case", [case for case in FEATURE_CASES if case in ADM["features"]])
def test_precision_and_recall_agree_with_openais_evaluator(case, precision_recall_of):
    tolerance = 1e-9 if case in ADM_IS_EXACT else 0.01 + 1e-9  # its distances are float16 unless they overflow
    found = precision_recall_of(case)
    assert found.precision == pytest.approx(ADM["features"][case]["adm_precision"], abs=tolerance)
    assert found.recall == pytest.approx(ADM["features"][case]["adm_recall"], abs=tolerance)


@pytest.mark.parametrize("case", RADII_CASES)
def test_radii_equal_the_float64_truth(case):
    expected = np.load(FOLDER / f"exact_radii_{case}.npz")
    for side, rows in zip(("real", "fake"), features(case), strict=True):
        np.testing.assert_allclose(squared_radii(rows), expected[f"{side}_radii_sq"], rtol=1e-12, atol=0)


def _scores(case: str, library: dict, prefix: str) -> list[tuple[InceptionScore, list[float]]]:
    found = [(key, value) for key, value in library["logits"][case].items() if key.startswith(prefix)]
    assert found
    return [(inception_score(LOGITS[case], int(key.rsplit("_", 1)[1])), np.atleast_1d(np.float64(value)).tolist()) for key, value in found]


@pytest.mark.parametrize("case", LOGITS_CASES)
def test_inception_score_equals_the_float64_truth(case):
    for score, (mean, std) in _scores(case, TRUTH, "float64_contiguous_split_size_"):
        assert score.mean == pytest.approx(mean, rel=1e-10)
        assert score.std == pytest.approx(std, abs=1e-10)


@pytest.mark.parametrize("case", [case for case in LOGITS_CASES if case in ADM["logits"]])
def test_inception_score_agrees_with_openais_evaluator_and_is_finite_where_that_is_nan(case):
    for score, (mean,) in _scores(case, ADM, "adm_is_split_size_"):
        assert np.isfinite(score.mean) if np.isnan(mean) else score.mean == pytest.approx(mean, rel=5e-6)
