"""DhariwalUNet, the iDDPM preconditioner and precision of the EDM networks: closed forms, initialisation,
rounding, and refusals."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dgflow.networks.edm.dhariwal import DhariwalUNetModule
from dgflow.networks.edm.layers import FourierEmbedding
from dgflow.networks.edm.preconditioners import EDMPrecond, VEPrecond, VPPrecond, check_sigmas, iDDPMPrecond
from dgflow.networks.edm.song import SongUNetModule

SMALL: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 3,
    "model_channels": 32,
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


def dhariwal(**changes: Any) -> DhariwalUNetModule:
    torch.manual_seed(0)
    return DhariwalUNetModule(**SMALL | changes)


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """Every parameter random, since freshly built networks give zeros."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(
                parameter + 0.2 * noise if parameter.ndim < 2 else noise / parameter[0].numel() ** 0.5
            )
    return network.eval()


def iddpm(**changes: Any) -> iDDPMPrecond:
    return iDDPMPrecond(dhariwal(**{"out_channels": 6} | changes))


def images(size: int = 3) -> Tensor:
    return torch.randn(size, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_fresh_denoiser_is_the_optimal_one_for_gaussian_data_since_its_network_gives_zeros() -> None:
    sigma = torch.tensor([0.01, 0.5, 30.0])
    expected = images() * (0.25 / (sigma**2 + 0.25))[:, None, None, None]
    torch.testing.assert_close(EDMPrecond(dhariwal())(images(), sigma), expected)


def test_initial_weights_are_uniform_by_fan_in_and_labels_standard_normal() -> None:
    network = dhariwal(label_dim=50)
    weight = network.map_layer1.weight
    torch.testing.assert_close(weight.std().item(), 1 / math.sqrt(3 * 128), rtol=0.05, atol=0)
    assert weight.abs().max() <= 1 / math.sqrt(128)
    assert network.map_label is not None
    torch.testing.assert_close(network.map_label.weight.std().item(), 1.0, rtol=0.05, atol=0)


def test_every_block_of_a_listed_side_has_attention_and_narrow_ones_have_none() -> None:
    attended = {name.split(".")[1] for name in dhariwal(num_blocks=2).state_dict() if ".qkv." in name}
    assert attended == {"4x4_block0", "4x4_block1", "4x4_in0", "4x4_block2"}
    assert not any(".qkv." in name for name in dhariwal(model_channels=16).state_dict())


def test_labels_may_be_indices_or_rows_and_none_means_rows_of_zeros() -> None:
    denoiser, sigma, labels = (
        randomised(EDMPrecond(dhariwal(label_dim=5))),
        torch.tensor([0.5, 1.0, 2.0]),
        torch.tensor([0, 4, 2]),
    )
    assert torch.equal(denoiser(images(), sigma, labels), denoiser(images(), sigma, torch.eye(5)[labels]))
    torch.testing.assert_close(denoiser(images(), sigma), denoiser(images(), sigma, torch.zeros(3, 5)))
    assert not torch.allclose(denoiser(images(), sigma, labels), denoiser(images(), sigma), atol=1e-3)


def test_a_sample_is_denoised_the_same_whoever_its_batch_mates_are() -> None:
    denoiser, sigma = randomised(EDMPrecond(dhariwal())), torch.tensor([0.5, 1.0, 2.0])
    others = torch.cat([images()[:1], 10 * images()[1:].flip(0)])
    expected = denoiser(images(), sigma)[:1]
    torch.testing.assert_close(
        denoiser(others, torch.tensor([0.5, 40.0, 0.01]))[:1], expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    "changes",
    [{"img_resolution": 9}, {"model_channels": 100, "attn_resolutions": (4, 8), "channel_mult": (2, 2)}],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot be halved 1 times|cannot be split into 3 attention heads"):
        dhariwal(**changes)


def test_the_levels_of_iddpm_are_those_of_the_cosine_schedule() -> None:
    denoiser, steps = iddpm(), torch.arange(1, 1001, dtype=torch.float64)
    alpha_bar = (0.5 * math.pi * steps / 1000 / 1.008).sin() ** 2
    torch.testing.assert_close(
        denoiser.u[1:].double(), (alpha_bar[-1] / alpha_bar - 1).sqrt(), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        denoiser.u[0].double() ** 2 + 1, 1000 * (denoiser.u[1].double() ** 2 + 1), rtol=1e-5, atol=0
    )
    assert (denoiser.sigma_min, denoiser.sigma_max) == (
        pytest.approx(0.0064223, rel=1e-5),
        pytest.approx(20291.17, rel=1e-6),
    )


def test_sigma_is_rounded_to_the_nearest_level_on_the_host_as_on_the_device() -> None:
    denoiser = iddpm()
    u = denoiser.u.double()
    sigmas = torch.cat(
        [
            u[300:600:50] * 0.6 + u[301:601:50] * 0.4,
            u[[0]] * 9,
            torch.tensor([0.0, 1e-5], dtype=torch.float64),
        ]
    )
    expected = torch.cat([u[300:600:50], u[[0]], u[[1000, 1000]]])
    assert torch.equal(denoiser.round_sigma(sigmas), expected)
    assert torch.equal(denoiser.round_sigma(sigmas[:6].reshape(2, 3)), expected[:6].reshape(2, 3))
    assert [denoiser.round_sigma(sigma) for sigma in sigmas.tolist()] == expected.tolist()


def test_the_condition_of_iddpm_is_the_step_of_the_nearest_level() -> None:
    denoiser = iddpm()
    assert denoiser.coefficients(denoiser.u[[0, 500, 999]]).c_noise.tolist() == [999.0, 499.0, 0.0]


def test_other_denoisers_leave_sigma_as_it_is() -> None:
    assert EDMPrecond(dhariwal()).round_sigma(0.1) == 0.1
    assert VPPrecond(dhariwal()).round_sigma(torch.tensor([0.1], dtype=torch.float64)).item() == 0.1


def test_iddpm_uses_the_first_half_of_the_outputs_only() -> None:
    network, sigma = dhariwal(out_channels=6), torch.tensor([0.5])
    denoiser = randomised(iDDPMPrecond(network))
    expected = denoiser(images(), sigma)
    with torch.no_grad():
        network.out_conv.bias[3:] += 100
    assert torch.equal(denoiser(images(), sigma), expected)


@pytest.mark.parametrize(
    "build",
    [lambda: SongUNetModule(**SMALL | NCSNPP), lambda: SongUNetModule(**SMALL), dhariwal],
    ids=["ncsn++", "ddpm++", "adm"],
)
def test_weights_in_bfloat16_give_nearly_the_same_numbers_in_float32(build: Any) -> None:
    denoiser, sigma = randomised(EDMPrecond(build())), torch.tensor([0.01, 0.5, 80.0])
    expected = denoiser(images(), sigma)
    result = denoiser.to(torch.bfloat16)(images(), sigma)
    assert result.dtype == torch.float32
    for i in range(3):
        assert (result[i] - expected[i]).norm() < 0.02 * expected[i].norm()


@pytest.mark.parametrize("build", [lambda: SongUNetModule(**SMALL | NCSNPP), dhariwal], ids=["ncsn++", "adm"])
def test_the_memory_format_changes_nothing(build: Any) -> None:
    denoiser, sigma = randomised(EDMPrecond(build())), torch.tensor([0.01, 0.5, 80.0])
    expected = denoiser(images(), sigma)
    torch.testing.assert_close(
        denoiser.to(memory_format=torch.channels_last)(images(), sigma), expected, rtol=1e-4, atol=1e-5
    )


def test_levels_and_frequencies_keep_float32_when_the_rest_is_converted_and_follow_wider_types() -> None:
    denoiser, embedding = iddpm(), FourierEmbedding(32)
    levels, freqs = denoiser.u.clone(), embedding.freqs.clone()
    denoiser.to(torch.bfloat16)
    assert {parameter.dtype for parameter in denoiser.parameters()} == {torch.bfloat16}
    assert denoiser.u.dtype == torch.float32 and torch.equal(denoiser.u, levels)
    assert torch.equal(embedding.half().freqs, freqs)
    assert embedding.double().freqs.dtype == torch.float64


@pytest.mark.parametrize("labels", [torch.tensor([0, 1]), torch.eye(5)[:2]], ids=["indices", "one-hot"])
def test_the_forward_pass_needs_no_value_on_the_host(labels: Tensor) -> None:
    denoiser = iddpm(label_dim=5).to("meta")
    assert denoiser(images(2).to("meta"), torch.ones(2, device="meta"), labels.to("meta")).shape == (
        2,
        3,
        8,
        8,
    )


@pytest.mark.parametrize(
    ("denoiser", "sigmas"),
    [
        (EDMPrecond(dhariwal()), [80.0, 1.0, 0.0]),
        (VEPrecond(dhariwal()), [100.0 * (1 + 1e-7), 0.02]),
        (iddpm(), [20291.17, 0.0064224, 0.0]),
    ],
    ids=["edm", "ve", "iddpm"],
)
def test_schedules_within_the_range_of_the_network_pass_the_check(denoiser: Any, sigmas: list[float]) -> None:
    check_sigmas(denoiser, sigmas)


@pytest.mark.parametrize(
    ("denoiser", "sigmas", "message"),
    [
        (
            VEPrecond(dhariwal()),
            [120.0, 1.0, 0.0],
            r"VEPrecond: expected noise levels from 0.02 to 100 .*found 120 as level 0 of the schedule",
        ),
        (
            VPPrecond(dhariwal()),
            [80.0, 0.0001, 0.0],
            r"VPPrecond: .* found 0.0001 as level 1 of the schedule",
        ),
        (EDMPrecond(dhariwal()), [80.0, 0.0, 0.0], r"found 0 as level 1 of the schedule:"),
        (EDMPrecond(dhariwal()), [math.inf, 0.0], r"found inf as level 0 of the schedule"),
        (EDMPrecond(dhariwal()), [80.0, math.nan], r"found nan as level 1 of the schedule"),
    ],
)
def test_schedules_beyond_the_range_of_the_network_are_refused_with_the_level(
    denoiser: Any, sigmas: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_sigmas(denoiser, sigmas)
