"""Kernel distance against stored outputs of torch-fidelity, clean-fid and a float64 truth; settings come from
the names of the numbers."""

import pytest
from metrics.in_memory import kernel_distance
from parity.metric_goldens import features, numbers

from dgflow.metrics.kernel_distance import polynomial_mmd2

ROUNDING = 1e-12  # KID is a small difference of kernel means that are about 1 or more


@pytest.mark.parametrize(
    ("case", "stored", "subsets", "size", "seed"),
    numbers(r"torch_fidelity_kid_f64_subsets(\d+)_size(\d+)_seed(\d+)"),
)
def test_kid_equals_torch_fidelitys(case, stored, subsets, size, seed):
    found, (mean, std) = kernel_distance(*features(case), subsets, size, seed), stored
    assert found.mean == pytest.approx(mean, rel=1e-9, abs=ROUNDING)
    assert found.std == pytest.approx(std, rel=1e-9, abs=ROUNDING)


@pytest.mark.parametrize(
    ("case", "stored", "subsets", "size", "seed"),
    numbers(r"torch_fidelity_kid_f32_subsets(\d+)_size(\d+)_seed(\d+)"),
)
def test_kid_agrees_with_torch_fidelitys_in_float32(case, stored, subsets, size, seed):
    found, (mean, std) = kernel_distance(*features(case), subsets, size, seed), stored
    assert found.mean == pytest.approx(mean, rel=1e-4, abs=1e-5)
    assert found.std == pytest.approx(std, rel=1e-4, abs=max(1e-5, 1e-4 * abs(mean)))


@pytest.mark.parametrize(
    ("case", "stored", "subsets", "size", "seed"),
    numbers(r"cleanfid_kid_f64_subsets(\d+)_maxsize(\d+)_npseed(\d+)"),
)
def test_kid_equals_clean_fids(case, stored, subsets, size, seed):
    assert kernel_distance(*features(case), subsets, size, seed).mean == pytest.approx(
        stored, rel=1e-9, abs=ROUNDING
    )


@pytest.mark.parametrize(("case", "stored"), numbers(r"exact_full_unbiased_mmd2_poly3"))
def test_mmd_over_all_pairs_equals_the_float64_truth(case, stored):
    assert polynomial_mmd2(*features(case)) == pytest.approx(stored, rel=1e-9, abs=ROUNDING)
