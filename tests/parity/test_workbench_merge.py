"""Merged weights against Neon's merge loop."""

from __future__ import annotations

import pytest
import torch
from parity.goldens import Case, cases, close, load

from dgflow.weights.merging import merged


def is_merge(case: Case) -> bool:
    return "Neon" in case.reference and "merge" in case.reference


CLAIMS = [is_merge]


@pytest.mark.parametrize("case", cases(is_merge, "workbench"))
def test_merged_weights_are_neons(case: Case) -> None:
    """Tensors are `in_base_*` and `in_aux_*` by the same names; one that the base alone has is `in_base_only`
    and comes back as `out_only`."""
    _, arrays, _ = load(case)
    base, tuned = (
        {name.removeprefix(start): value for name, value in arrays.items() if name.startswith(start)}
        for start in ("in_base_", "in_aux_")
    )
    weight = float(arrays["in_w"])
    result = merged(base, tuned, weight)
    expected = {name.removeprefix("out_"): value for name, value in arrays.items() if name.startswith("out_")}
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        terms = (1 + weight) * base[name].abs()
        if name in tuned:
            terms = terms + abs(weight) * tuned[name].abs()
        # The reference's products are float32: where they cancel, their rounding is more of the result.
        rounding = torch.finfo(torch.float32).eps * terms
        close(case, name, result[name], value, rtol=1e-6, atol=rounding)
        assert result[name].dtype == base[name].dtype
    assert any(name not in tuned for name in base)
