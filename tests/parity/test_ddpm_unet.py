"""DDPM's U-Net: the names of the full-size network, and the numbers of SDEdit's first pass, which walks it
down from a noised picture."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import pytest
import torch
from parity.goldens import SMALL, Case, cases, close, load
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dgflow.diffusion.ancestral_specs import DDPM
from dgflow.diffusion.denoisers import VPDenoiser
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.samplers import Start
from dgflow.diffusion.score_model import ScoreModel
from dgflow.networks.ddpm.unet import DDPMUNetModule
from dgflow.weights.tensors import load_into


def is_sdedit(case: Case) -> bool:
    return "image_editing_sample" in case.reference and "num_diffusion_timesteps" in case.config.get(
        "diffusion", {}
    )


CLAIMS = [is_sdedit]


def test_the_full_size_network_has_every_published_name_and_shape() -> None:
    shapes = json.loads((SMALL / "official_shapes.json").read_text())[
        "SDEdit Model (configs/celeba.yml; bedroom identical)"
    ]
    with torch.device("meta"):
        network = DDPMUNetModule()
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == shapes


def test_the_network_runs_in_bfloat16_and_says_which_widths_it_cannot_have() -> None:
    torch.manual_seed(0)
    network = (
        DDPMUNetModule(image_size=16, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(8,))
        .eval()
        .requires_grad_(False)
    )
    x, steps = torch.randn(2, 3, 16, 16), torch.tensor([10, 999])
    exact = network(x, steps)
    assert exact.shape == x.shape
    with sdpa_kernel(SDPBackend.MATH):  # the others need instructions that not every processor has
        rounded = network.bfloat16()(x, steps)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.05 * float(exact.abs().max()))
    with pytest.raises(ValueError, match="multiples of 32"):
        DDPMUNetModule(ch=48)


def published_log_variance(schedule: DiscreteSchedule, kind: str) -> torch.Tensor:
    """ "fixedlarge": beta, and the first posterior variance that is not 0 in the place of the first;
    "fixedsmall": the posterior's, at least 1e-20."""
    small = torch.tensor(schedule.posterior_variance, dtype=torch.float64)
    if kind == "fixedsmall":
        return small.clamp_min(1e-20).log()
    return torch.cat([small[1:2], torch.tensor(schedule.betas[1:], dtype=torch.float64)]).log()


@dataclass
class Edit:
    """The inputs of SDEdit's first pass: the network and its schedule, the image, the pixels that are kept,
    and the normals, first those of the start, then those of each step.
    """

    network: DDPMUNetModule
    schedule: DiscreteSchedule
    image: Tensor
    keep: Tensor
    normals: Tensor

    @classmethod
    def of(cls, case: Case) -> Edit:
        config, arrays, weights = load(case)
        model, steps = config["model"], config["diffusion"]["num_diffusion_timesteps"]
        names = ("in_channels", "ch", "ch_mult", "num_res_blocks", "attn_resolutions", "dropout")
        names += ("resamp_with_conv",)
        network = DDPMUNetModule(image_size=config["image_size"], **{name: model[name] for name in names})
        load_into(network, weights["net"], source="net")
        low, high = config["diffusion"]["beta_start"], config["diffusion"]["beta_end"]
        betas = tuple(low + (high - low) * i / (steps - 1) for i in range(steps))
        schedule = DiscreteSchedule(betas, tuple(range(steps)))
        image, keep = 2 * arrays["in_img"].double() - 1, arrays["in_mask"] == 1
        return cls(network.eval(), schedule, image, keep, arrays["in_noise"].double())

    def noised(self, index: int) -> Tensor:
        """The image at the noise level of an index, with the start's normals: what kept pixels are in every
        step."""
        abar = self.schedule.alphas_cumprod[index]
        return math.sqrt(abar) * self.image + math.sqrt(1 - abar) * self.normals[0]


@pytest.mark.parametrize("case", cases(is_sdedit))
def test_the_first_pass_of_sdedit_is_the_published_one(case: Case) -> None:
    config, arrays, _ = load(case)
    edit = Edit.of(case)
    schedule = edit.schedule
    expected = arrays["out_betas"].double()
    close(case, "out_betas", torch.tensor(schedule.betas, dtype=torch.float64), expected, rtol=1e-6)
    log_variance = published_log_variance(schedule, config["var_type"])
    close(
        case, "out_logvar", log_variance[1:], arrays["out_logvar"][1:], rtol=1e-5
    )  # the last step adds none

    x = edit.noised(config["t"] - 1)
    close(case, "out_start", x, arrays["out_start"][0], rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        for number, index in enumerate(reversed(range(config["t"]))):
            abar, beta = schedule.alphas_cumprod[index], schedule.betas[index]
            epsilon = edit.network(x.float(), torch.full((len(x),), index)).double()
            mean = (x - beta / math.sqrt(1 - abar) * epsilon) / math.sqrt(1 - beta)
            std = math.exp(0.5 * float(log_variance[index])) if index else 0.0
            x = torch.where(edit.keep, edit.noised(index), mean + std * edit.normals[1 + number])
    close(case, "out_sample_0", x, arrays["out_sample_0"], of_max=1e-4)


@pytest.mark.parametrize("case", cases(is_sdedit))
def test_ddpm_started_at_an_image_edits_it_as_published(case: Case) -> None:
    """The pixels that are not kept: the kept ones, which SDEdit sets after every step, are set in what the
    network is shown."""
    config, arrays, _ = load(case)
    edit, first = Edit.of(case), config["t"] - 1

    def predict(y: Tensor, time: Tensor, class_labels: Tensor | None) -> tuple[Tensor, None]:
        index = int(time[0])
        shown = torch.where(edit.keep, edit.noised(min(index + 1, first)), y.double())
        return edit.network(shown.float(), time), None

    model = ScoreModel(VPDenoiser(predict, lambda sigma: sigma), predict, edit.schedule)
    start = Start(edit.image.expand_as(edit.normals[0]), edit.schedule.sigmas[first])
    variance = "small" if config["var_type"] == "fixedsmall" else "large"
    sampler = DDPM(respacing="", clip_denoised=False, fixed_variance=variance)
    made = sampler.sample(model, edit.normals[0], None, (), lambda step: edit.normals[1 + step], start)
    assert made.nfe == config["t"]
    changed = ~edit.keep.expand_as(made.x)
    close(case, "out_sample_0", made.x[changed], arrays["out_sample_0"][changed], of_max=1e-4)
