"""Networks prepared for sampling: the same numbers in another memory format or precision, and no more
gradients than needed."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dgflow.diffusion.acceleration import prepared, products
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm, log_ratio_and_gradient
from dgflow.diffusion.heun import edm_sigmas, heun
from dgflow.networks.adm.encoder import ADMEncoderModule
from dgflow.networks.discriminator.module import DiscriminatorModule
from dgflow.networks.edm.preconditioners import EDMPrecond, VPPrecond, iDDPMPrecond
from dgflow.networks.edm.song import SongUNetModule

SMALL: dict[str, Any] = {
    "image_size": 16,
    "in_channels": 3,
    "model_channels": 32,
    "out_channels": 10,
    "num_res_blocks": 1,
}
SMALL |= {"attention_resolutions": (1, 2), "channel_mult": (1, 2), "num_head_channels": 16}
HEAD = SMALL | {"image_size": 8, "in_channels": 64, "out_channels": 1, "channel_mult": (1,)}


def randomised(network: nn.Module) -> Any:
    """Every parameter random, since freshly built networks end their branches close to zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(
                parameter + 0.1 * noise if parameter.ndim < 2 else 0.5 * noise / parameter[0].numel() ** 0.5
            )
    return network.eval()


def discriminator() -> DiscriminatorModule:
    return randomised(DiscriminatorModule(ADMEncoderModule(**SMALL), ADMEncoderModule(**HEAD)))


def score_network() -> VPPrecond:
    return randomised(
        VPPrecond(
            SongUNetModule(16, 3, model_channels=32, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(8,))
        )
    )


def images(size: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 3, 16, 16, dtype=torch.float64, generator=generator), torch.linspace(
        0.5, 2.0, size, dtype=torch.float64
    )


def denoised_and_gradient(score: nn.Module, guide: DiscriminatorModule) -> tuple[Tensor, Tensor]:
    x, sigma = images()
    with torch.no_grad():
        denoised = score(x, sigma)
    return denoised, log_ratio_and_gradient(guide, x, sigma, None)[1]


def assert_close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], bound: float) -> None:
    """Differences of less than `bound` of the expected tensor, in L2 norms."""
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).norm() / b.norm()) < bound


@pytest.mark.parametrize(
    ("precision", "bound", "gradient_bound"),
    [("float32", 1e-5, 3e-5), ("bfloat16", 0.02, 0.1), ("float16", 0.002, 0.015)],
)
def test_a_prepared_network_gives_the_numbers_of_the_plain_one(
    precision: Any, bound: float, gradient_bound: float
) -> None:
    # The gradient of a random network is a small difference of large terms.
    denoised, gradient = denoised_and_gradient(score_network(), discriminator())
    found = denoised_and_gradient(
        prepared(score_network(), precision=precision), prepared(discriminator(), precision=precision)
    )
    assert_close(found[:1], (denoised,), bound)
    assert_close(found[1:], (gradient,), gradient_bound)


def test_images_stay_channels_last_through_a_network_prepared_in_bfloat16() -> None:
    guide = prepared(discriminator(), precision="bfloat16")
    assert guide.features is not None
    x, sigma = images()
    assert guide.features.features(x.float(), sigma.float()).is_contiguous(memory_format=torch.channels_last)


def test_a_prepared_network_records_nothing_for_the_gradients_of_its_parameters() -> None:
    guide = prepared(discriminator().train())
    x, sigma = images()
    saved: list[Tensor] = []

    def remember(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        log_ratio_and_gradient(guide, x, sigma, None)
    frozen = len(saved)
    guide.requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        log_ratio_and_gradient(guide, x, sigma, None)
    assert not guide.training
    assert frozen < len(saved) - frozen


def test_levels_that_a_denoiser_keeps_in_float32_survive_the_preparation_in_bfloat16() -> None:
    network = iDDPMPrecond(SongUNetModule(8, 3, model_channels=8, channel_mult=(1,), num_blocks=1))
    levels = network.u.clone()
    torch.testing.assert_close(prepared(network, precision="bfloat16").u, levels, rtol=0, atol=0)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="float32.*bfloat16, float16, found 'float8'"):
        prepared(nn.Linear(1, 1), precision="float8")  # type: ignore[arg-type]


def test_guided_sampling_with_prepared_networks_waits_for_no_number_of_the_device() -> None:
    score, guide = (
        prepared(
            randomised(
                EDMPrecond(SongUNetModule(16, 3, model_channels=32, channel_mult=(1, 2), num_blocks=1))
            )
        ),
        discriminator(),
    )
    asked = []

    class Forbid(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            asked.append(str(func))
            return func(*args, **(kwargs or {}))

    with Forbid():
        heun(
            score,
            images()[0],
            edm_sigmas(3),
            guidance=[DiscriminatorTerm(prepared(guide, precision="bfloat16"))],
        )
    assert any("convolution_backward" in name for name in asked)
    assert not [
        name
        for name in asked
        if any(word in name for word in ("_local_scalar_dense", "nonzero", "equal.default"))
    ]


def test_products_are_rounded_only_where_tf32_is_asked_for_and_only_for_so_long():
    before = torch.get_float32_matmul_precision()
    with products("tf32"):
        assert torch.get_float32_matmul_precision() == "high"
        with products("float32"):
            assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == before
