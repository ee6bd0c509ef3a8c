"""The divergence of what networks add to the score: every kind of discriminator is differentiated twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.guidance import Point, guide, guided
from dgflow.diffusion.likelihood import value_and_trace
from dgflow.networks.adm.encoder import ADMEncoderModule
from dgflow.networks.discriminator.module import DiscriminatorModule
from dgflow.networks.edm.preconditioners import EDMPrecond
from dgflow.networks.edm.song import SongUNetModule
from dgflow.networks.edm2.preconditioner import Precond
from dgflow.networks.perceptron.module import PerceptronModule

SIGMA = torch.tensor([0.7, 3.0], dtype=torch.float64)
ENCODER: dict[str, Any] = {
    "image_size": 8,
    "in_channels": 3,
    "model_channels": 32,
    "out_channels": 10,
    "num_res_blocks": 1,
    "attention_resolutions": (1, 2),
    "channel_mult": (1, 2),
    "num_head_channels": 16,
}
HEAD = ENCODER | {"image_size": 4, "in_channels": 64, "out_channels": 1, "channel_mult": (1,)}


def randomised(network: nn.Module) -> Any:
    """Every parameter random, as fresh networks end in zeros."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.requires_grad_(False).parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
        parameter.add_(noise / fan_in**0.5)
    return network.eval()


def on_features() -> nn.Module:
    return DiscriminatorModule(ADMEncoderModule(**ENCODER), ADMEncoderModule(**HEAD))


def of_pixels() -> nn.Module:
    head = PerceptronModule(image_size=8, in_channels=3, width=32, layers=2)
    return DiscriminatorModule(None, head)


@pytest.mark.parametrize("build", [on_features, of_pixels])
def test_the_divergence_of_a_discriminator_is_that_of_finite_differences(
    build: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    term = DiscriminatorTerm(randomised(build()))

    def field(x: Tensor) -> Tensor:
        point = Point(x, SIGMA, None, 0, 1, (0.7, 3.0), denoised=torch.zeros_like(x))
        return guided(guide([term], point), SIGMA)

    _agrees(field)


def edm() -> nn.Module:
    return EDMPrecond(
        SongUNetModule(8, 3, model_channels=16, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(4,))
    )


def edm2() -> nn.Module:
    widths = {"model_channels": 16, "channel_mult": (1, 2), "num_blocks": 1, "channels_per_head": 16}
    return Precond(8, 3, 0, **widths, attn_resolutions=(4,))


@pytest.mark.parametrize("build", [edm, edm2])
def test_the_divergence_of_a_denoiser_with_attention_is_that_of_finite_differences(
    build: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    network = randomised(build())
    _agrees(lambda x: network(x, SIGMA).double())


def _agrees(field: Callable[[Tensor], Tensor]) -> None:
    """Along a probe, within what float32 leaves of central differences."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=generator)
    probe = torch.randn(x.shape, dtype=torch.float64, generator=generator).sign()
    value, trace = value_and_trace(field, x, probe)
    torch.testing.assert_close(value, field(x), rtol=1e-4, atol=1e-5)
    step = 0.002
    difference = (field(x + step * probe) - field(x - step * probe)) / (2 * step)
    expected = (probe * difference).flatten(1).sum(1)
    assert float(expected.abs().max()) > 0.1
    torch.testing.assert_close(trace, expected, rtol=2e-2, atol=2e-2)
