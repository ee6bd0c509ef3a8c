"""Kernel distance against stored outputs of torch-fidelity, clean-fid and a float64 truth; settings come from the names of the numbers."""

import re

import pytest
from parity.metric_goldens import FEATURE_CASES, TRUTH, features

from dgflow.metrics.kernel_distance import kernel_distance, polynomial_mmd2

ROUNDING = 1e-12  # KID is a small difference of kernel means that are about 1 or more


def _numbers(pattern: str) -> list:
    """(case, key, subsets, subset size, seed) of every stored number whose name is `pattern` with three numbers in it."""
    matches = [(case, re.fullmatch(pattern, key)) for case in FEATURE_CASES for key in TRUTH["features"][case]]
    found = [(case, match[0], *(int(number) for number in match.groups())) for case, match in matches if match]
    return [pytest.param(*numbers, id=f"{numbers[0]}-{numbers[1]}") for numbers in found]


@pytest.mark.parametrize(("case", "key", "subsets", "size", "seed"), _numbers(r"torch_fidelity_kid_f64_subsets(\d+)_size(\d+)_seed(\d+)"))
def test_kid_equals_torch_fidelitys(case, key, subsets, size, seed):
    found, (mean, std) = kernel_distance(*features(case), subsets, size, seed), TRUTH["features"][case][key]
    assert found.mean == pytest.approx(mean, rel=1e-9, abs=ROUNDING)
    assert found.std == pytest.approx(std, rel=1e-9, abs=ROUNDING)


@pytest.mark.parametrize(("case", "key", "subsets", "size", "seed"), _numbers(r"torch_fidelity_kid_f32_subsets(\d+)_size(\d+)_seed(\d+)"))
def test_kid_agrees_with_torch_fidelitys_in_float32(case, key, subsets, size, seed):
    found, (mean, std) = kernel_distance(*features(case), subsets, size, seed), TRUTH["features"][case][key]
    assert found.mean == pytest.approx(mean, rel=1e-4, abs=1e-5)
    assert found.std == pytest.approx(std, rel=1e-4, abs=max(1e-5, 1e-4 * abs(mean)))


@pytest.mark.parametrize(("case", "key", "subsets", "size", "seed"), _numbers(r"cleanfid_kid_f64_subsets(\d+)_maxsize(\d+)_npseed(\d+)"))
def test_kid_equals_clean_fids(case, key, subsets, size, seed):
    assert kernel_distance(*features(case), subsets, size, seed).mean == pytest.approx(TRUTH["features"][case][key], rel=1e-9, abs=ROUNDING)


@pytest.mark.parametrize("case", [case for case in FEATURE_CASES if "exact_full_unbiased_mmd2_poly3" in TRUTH["features"][case]])
def test_mmd_over_all_pairs_equals_the_float64_truth(case):
    real, fake = features(case)
    expected = TRUTH["features"][case]["exact_full_unbiased_mmd2_poly3"]
    assert polynomial_mmd2(real, fake) == pytest.approx(expected, rel=1e-9, abs=ROUNDING)
