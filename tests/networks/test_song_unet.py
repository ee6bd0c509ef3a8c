"""SongUNet and its preconditioners: closed forms, conventions of sigma and labels, initialisation,
independence, and refusals."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dgflow.networks.edm.layers import Conv2d
from dgflow.networks.edm.preconditioners import EDMPrecond, VEPrecond, VPPrecond
from dgflow.networks.edm.song import SongUNetModule

SMALL: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 3,
    "model_channels": 8,
    "channel_mult": (1, 2),
    "num_blocks": 1,
}
SMALL |= {"attn_resolutions": (4,), "dropout": 0.0}
NCSNPP: dict[str, Any] = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": (1, 3, 3, 1),
}


def song_unet(**changes: Any) -> SongUNetModule:
    torch.manual_seed(0)
    return SongUNetModule(**SMALL | changes)


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """Every parameter random, since freshly built networks end their branches close to zero."""
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(
                parameter + 0.2 * noise if parameter.ndim < 2 else noise / parameter[0].numel() ** 0.5
            )
    return network


def images(size: int = 3) -> Tensor:
    return torch.randn(size, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_fresh_edm_denoiser_is_the_optimal_one_for_gaussian_data_since_its_network_starts_at_zero() -> None:
    sigma = torch.tensor([0.01, 0.5, 30.0])
    expected = images() * (0.25 / (sigma**2 + 0.25))[:, None, None, None]
    torch.testing.assert_close(EDMPrecond(song_unet())(images(), sigma), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("precond", [VPPrecond, VEPrecond])
def test_a_fresh_denoiser_of_noise_or_score_is_the_identity(precond: Any) -> None:
    torch.testing.assert_close(
        precond(song_unet())(images(), torch.tensor([0.5])), images(), atol=1e-4, rtol=0
    )


def test_edm_inputs_and_targets_have_unit_variance() -> None:
    sigma = torch.logspace(-3, 2, 20, dtype=torch.float64)
    c_skip, c_out, c_in, c_noise = EDMPrecond(song_unet(), sigma_data=0.7).coefficients(sigma)
    torch.testing.assert_close(c_in**2 * (sigma**2 + 0.49), torch.ones_like(sigma))
    # The target is (y - c_skip (y + n)) / c_out with independent y and n of variances sigma_data^2 and
    # sigma^2.
    torch.testing.assert_close(
        ((1 - c_skip) ** 2 * 0.49 + c_skip**2 * sigma**2) / c_out**2, torch.ones_like(sigma)
    )
    torch.testing.assert_close(c_noise.exp() ** 4, sigma)


def test_vp_time_and_noise_level_are_the_closed_forms_and_inverse_to_each_other() -> None:
    precond = VPPrecond(song_unet())
    tau = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    torch.testing.assert_close(
        precond.sigma(tau), torch.expm1(9.95 * tau**2 + 0.1 * tau).sqrt(), rtol=1e-10, atol=0
    )
    torch.testing.assert_close(precond.sigma_inv(precond.sigma(tau)), tau, rtol=1e-10, atol=0)


def test_the_ranges_of_sigma_are_the_published_ones() -> None:
    ranges = [
        (net.sigma_min, net.sigma_max)
        for net in (EDMPrecond(song_unet()), VPPrecond(song_unet()), VEPrecond(song_unet()))
    ]
    assert ranges[0] == (0.0, math.inf) and ranges[2] == (0.02, 100.0)
    assert ranges[1] == (0.0009765625, pytest.approx(152.167, abs=1e-3))


def test_the_result_is_float32_and_float64_input_is_rounded_first() -> None:
    denoiser, sigma = randomised(EDMPrecond(song_unet())), torch.tensor([0.5, 1.0, 2.0])
    result = denoiser(images().double(), sigma.double())
    assert result.dtype == torch.float32
    assert torch.equal(result, denoiser(images(), sigma))


@pytest.mark.parametrize("changes", [{}, NCSNPP], ids=["ddpm++", "ncsn++"])
def test_one_sigma_for_the_batch_equals_the_same_sigma_for_each_sample(changes: dict[str, Any]) -> None:
    denoiser = randomised(EDMPrecond(song_unet(**changes)))
    each = denoiser(images(), torch.full((3,), 0.7))
    for one in (torch.tensor(0.7), torch.tensor([0.7])):
        torch.testing.assert_close(denoiser(images(), one), each, rtol=1e-5, atol=1e-6)


def test_indices_equal_one_hot_rows_and_no_labels_equal_rows_of_zeros() -> None:
    denoiser, labels, sigma = (
        randomised(EDMPrecond(song_unet(label_dim=5))),
        torch.tensor([0, 4, 2]),
        torch.tensor([0.5]),
    )
    assert torch.equal(
        denoiser(images(), sigma, labels),
        denoiser(images(), sigma, torch.eye(5, dtype=torch.float64)[labels]),
    )
    torch.testing.assert_close(
        denoiser(images(), sigma), denoiser(images(), sigma, torch.zeros(3, 5)), rtol=1e-5, atol=1e-6
    )
    assert not torch.allclose(denoiser(images(), sigma, labels), denoiser(images(), sigma), atol=1e-3)


def test_an_unconditional_denoiser_ignores_labels() -> None:
    denoiser = randomised(EDMPrecond(song_unet()))
    assert torch.equal(
        denoiser(images(), torch.tensor([0.5]), torch.tensor([0, 1, 2])),
        denoiser(images(), torch.tensor([0.5])),
    )


@pytest.mark.parametrize(
    "labels", [torch.zeros(3, 4), torch.zeros(3), torch.zeros(3, 1, 5)], ids=["width", "float", "rank"]
)
def test_labels_of_another_form_are_refused(labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"one-hot \[B, 5\]"):
        EDMPrecond(song_unet(label_dim=5))(images(), torch.tensor([0.5]), labels)


@pytest.mark.parametrize("changes", [{}, NCSNPP], ids=["ddpm++", "ncsn++"])
def test_a_sample_is_denoised_the_same_whoever_its_batch_mates_are(changes: dict[str, Any]) -> None:
    denoiser, sigma, labels = (
        randomised(EDMPrecond(song_unet(label_dim=5, **changes))),
        torch.tensor([0.5, 1.0, 2.0]),
        torch.tensor([0, 1, 2]),
    )
    x_other = images().clone()
    x_other[1:] = 10 * images()[1:].flip(0)
    expected = denoiser(images(), sigma, labels)[:1]
    other_mates = denoiser(x_other, torch.tensor([0.5, 40.0, 0.01]), torch.tensor([0, 3, 3]))[:1]
    torch.testing.assert_close(other_mates, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(denoiser(images()[:1], sigma[:1], labels[:1]), expected, rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_only() -> None:
    denoiser, sigma = randomised(EDMPrecond(song_unet(dropout=0.5))), torch.tensor([0.5])
    assert not torch.equal(denoiser(images(), sigma), denoiser(images(), sigma))
    denoiser.eval()
    assert torch.equal(denoiser(images(), sigma), denoiser(images(), sigma))


@pytest.mark.parametrize(
    "changes",
    [{}, NCSNPP, NCSNPP | {"encoder_type": "skip", "decoder_type": "skip"}],
    ids=["ddpm++", "ncsn++", "skip"],
)
def test_one_training_step_from_the_published_initialisation_lowers_the_loss(changes: dict[str, Any]) -> None:
    denoiser = EDMPrecond(song_unet(label_dim=5, **changes))
    clean = torch.full((8, 3, 8, 8), 0.5) * torch.linspace(-1, 1, 8)
    noise, sigma, labels = torch.randn(clean.shape), torch.linspace(0.1, 2, 8), torch.arange(8) % 5
    weight = ((sigma**2 + 0.25) / (sigma * 0.5) ** 2)[:, None, None, None]
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-3)

    def loss() -> Tensor:
        return (
            weight * (denoiser(clean + sigma[:, None, None, None] * noise, sigma, labels) - clean) ** 2
        ).mean()

    first = loss()
    first.backward()
    assert all(parameter.grad is not None for parameter in denoiser.parameters())
    optimizer.step()
    assert loss() < first


@pytest.mark.parametrize("resample", ["up", "down"])
def test_nearest_neighbour_and_means_equal_the_depthwise_convolutions_with_the_stored_filter(
    resample: Any,
) -> None:
    layer, x = Conv2d(3, 3, 0, resample=resample), images()
    fast = layer(x)
    layer.is_box = False
    torch.testing.assert_close(fast, layer(x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_resolution": 9}, "cannot be halved 1 times"),
        ({"embedding_type": "sine"}, "embedding_type must be one of positional, fourier"),
        ({"encoder_type": "pyramid"}, "encoder_type must be one of standard, skip, residual"),
        ({"decoder_type": "residual"}, "decoder_type must be one of standard, skip"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        song_unet(**changes)
