"""Networks in float16: what stays in float32, weights that do not fit, and overflows, which are told."""

import math
from typing import Any

import pytest
import torch
from networks.test_acceleration import randomised
from torch import Tensor, nn

import dgflow as dg
from dgflow.diffusion.acceleration import prepared
from dgflow.diffusion.ddpm import ddpm
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.evaluation import Guides, eagerly
from dgflow.diffusion.guidance import Point
from dgflow.diffusion.heun import edm_sigmas, heun
from dgflow.diffusion.overflow import Watch
from dgflow.networks.adm.unet import ADMUNetModule
from dgflow.networks.edm.dhariwal import DhariwalUNetModule
from dgflow.networks.edm.preconditioners import EDMPrecond

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LEVELS, LABELS = torch.tensor([0.5, 2.0]), torch.tensor([0, 2])


def adm() -> Any:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"image_size": 8, "model_channels": 32, "num_res_blocks": 1, "num_classes": 3}
    settings |= {"attention_resolutions": (2,), "channel_mult": (1, 2), "num_head_channels": 16}
    return randomised(ADMUNetModule(**settings, out_channels=6))


def edm() -> Any:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"model_channels": 32, "channel_mult": (1, 2), "num_blocks": 1}
    return randomised(EDMPrecond(DhariwalUNetModule(8, 3, label_dim=3, attn_resolutions=(4,), **settings)))


@pytest.mark.parametrize("build", [adm, edm])
def test_the_networks_that_were_published_in_float16_give_float32_s_numbers_within_its_rounding(build):
    expected = build()(X, LEVELS, LABELS).detach()
    found = prepared(build(), precision="float16")(X, LEVELS, LABELS)
    assert found.dtype == torch.float32
    assert float((found - expected).norm() / expected.norm()) < 4 * 2**-11  # bfloat16 is at 2**-7


def test_adm_narrows_the_convolutions_of_its_blocks_alone_as_published():
    network = prepared(adm(), precision="float16")
    blocks = ("input_blocks", "middle_block", "output_blocks")
    convolutions = {
        f"{name}.{kind}"
        for name, module in network.named_modules()
        if name.startswith(blocks) and isinstance(module, nn.Conv1d | nn.Conv2d)
        for kind in ("weight", "bias")
    }
    narrow = {name for name, each in network.named_parameters() if each.dtype == torch.float16}
    assert narrow == convolutions
    assert {each.dtype for each in network.parameters()} == {torch.float16, torch.float32}


def test_edm_narrows_its_convolutions_alone():
    network = prepared(edm(), precision="float16")
    wide = {name for name, each in network.named_parameters() if each.dtype == torch.float32}
    parts = ("norm", "affine", "map_")
    assert wide == {name for name, _ in network.named_parameters() if any(part in name for part in parts)}


@pytest.mark.parametrize(("value", "found"), [(1e5, "1e+05"), (1e-9, "1e-09")])
def test_weights_that_float16_cannot_hold_are_refused_by_name(value, found):
    network = adm()
    nn.init.constant_(network.middle_block[0].in_layers[2].weight, value)
    with pytest.raises(
        ValueError, match=r"found middle_block\.0\.in_layers\.2\.weight with .*bfloat16"
    ) as error:
        prepared(network, precision="float16")
    assert found in str(error.value)
    prepared(network, precision="bfloat16")


def test_an_activation_that_overflows_is_told_with_its_step_and_noise_level():
    network = edm()
    nn.init.constant_(network.model.enc["8x8_conv"].weight, 2e4)  # sums of 27 values above 65,504
    watch, sigmas = Watch(eagerly), edm_sigmas(3)
    latents = X.double()
    network = prepared(network, precision="float16")
    labelled: Any = lambda x, sigma, labels: network(x, sigma, LABELS)  # noqa: E731
    heun(labelled, latents, sigmas, guidance=Guides([], watch))
    remedy = f"in step 0 of the sampler .*, at noise level {sigmas[0]:.6g}: .*bfloat16"
    with pytest.raises(FloatingPointError, match=f"'samples': .* in the denoised image .*{remedy}"):
        watch.check("'samples'")
    watch.check("'samples'")  # told once


def test_an_infinite_image_is_told_before_the_sampler_clips_it():
    def predict(y: Tensor, time: Tensor, labels: Tensor | None) -> tuple[Tensor, None]:
        return torch.where((time < 600).view(-1, 1, 1, 1), math.inf, y), None

    schedule, watch = DiscreteSchedule.of(respacing="5"), Watch(eagerly)
    latents = X.double()
    sample = ddpm(predict, latents, schedule, noise=lambda step: latents, guidance=Guides([], watch))
    assert sample.x.isfinite().all()
    step = next(i for i, time in enumerate(reversed(schedule.timestep_map)) if time < 600)
    with pytest.raises(FloatingPointError, match=f"in step {step} of .*{schedule.sigmas[-1 - step]:.6g}"):
        watch.check("samples")


def test_a_gradient_that_overflows_is_told_as_that_of_the_guidance():
    def term(point: Point) -> tuple[Tensor, None]:
        return torch.full_like(point.x, math.nan if point.step == 1 else 0.0), None

    watch = Watch(eagerly)
    heun(lambda x, sigma, labels: 0.5 * x, X.double(), edm_sigmas(3), guidance=Guides([term], watch))
    with pytest.raises(FloatingPointError, match=r"in the gradient of the guidance, in step 1 of"):
        watch.check("samples")


def test_a_training_in_float16_is_refused_with_the_reason():
    with pytest.raises(ValueError, match='(?s)precision.*found "float16", which is for sampling only'):
        dg.TrainClassifier(precision="float16")  # pyright: ignore[reportArgumentType, reportCallIssue]
