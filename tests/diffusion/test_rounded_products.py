"""Autocast to bfloat16 by float32's kernels, against exact sums and against torch's own kernels."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dgflow.diffusion import acceleration
from dgflow.diffusion.acceleration import autocast
from dgflow.diffusion.rounded_products import emulated_autocast

CPU = torch.device("cpu")


def test_a_sum_that_is_exact_is_rounded_once() -> None:
    torch.manual_seed(0)
    image, kernel = torch.randint(-8, 9, (2, 5, 9, 9)), torch.randint(-8, 9, (7, 5, 3, 3))
    with emulated_autocast():
        found = F.conv2d(image.float(), kernel.float(), padding=1)
    exact = F.conv2d(image.double(), kernel.double(), padding=1)
    assert found.dtype == torch.bfloat16 and torch.equal(found, exact.to(torch.bfloat16))
    assert not torch.equal(found.double(), exact)


def test_factors_are_rounded_first() -> None:
    fine = torch.tensor([[1 + 2.0**-10]])  # 1 in bfloat16
    with emulated_autocast():
        assert F.linear(fine, 256 * fine).item() == 256


def test_values_and_gradients_are_those_of_torchs_own_kernels_up_to_rounding() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    image = torch.randn(4, 3, 8, 8, requires_grad=True)

    def computed(context) -> list[torch.Tensor]:
        with context:
            out = network(image)
        return [out, *torch.autograd.grad(out.float().square().sum(), [image, *network.parameters()])]

    own, emulated = computed(torch.autocast("cpu", torch.bfloat16)), computed(emulated_autocast())
    for expected, found in zip(own, emulated, strict=True):
        assert found.dtype == expected.dtype
        assert (found - expected).abs().max() <= 2**-6 * expected.abs().max()


def test_what_autocast_leaves_alone_keeps_its_precision() -> None:
    x, weight = torch.full((1, 1), 1 + 2.0**-20), torch.ones(1, 1)
    with emulated_autocast():
        assert torch.equal(F.linear(x.double(), weight.double()), x.double())
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(F.linear(x, weight), x)


@pytest.mark.parametrize("lacking", [True, False])
def test_it_is_used_for_bfloat16_where_the_cpu_lacks_kernels(
    monkeypatch: pytest.MonkeyPatch, lacking: bool
) -> None:
    monkeypatch.setattr(acceleration, "lacks_kernels", lambda: lacking)
    assert isinstance(autocast(CPU, "bfloat16"), torch.autocast) != lacking
    assert isinstance(autocast(CPU, "float32"), torch.autocast)
