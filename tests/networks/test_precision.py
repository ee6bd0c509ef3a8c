"""Parts of networks that stay in float32, under autocast too."""

import pytest
import torch
from torch import nn

from dgflow.networks.precision import wide_linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wide_product_is_float32_under_autocast_and_in_narrow_networks(dtype):
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 32).to(dtype), torch.randn(8, 64)
    expected = x.double() @ layer.weight.double().T + layer.bias.double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = wide_linear(layer, x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_wide_product_has_a_shape_without_memory():
    layer = nn.Linear(4, 3, device="meta", dtype=torch.bfloat16)
    found = wide_linear(layer, torch.empty(2, 4, device="meta"))
    assert (found.shape, found.dtype) == ((2, 3), torch.float32)
