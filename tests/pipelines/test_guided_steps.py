"""Guidance in the steps of diffusers' schedulers, on Gaussian data whose noise and log-ratio are known."""

import importlib
import inspect
import math
import re
import sys
from typing import Any

import diffusers
import pytest
import torch
from diffusers.schedulers import scheduling_ddpm
from torch import Tensor

from dgflow.diffusers.steps import VARIANCE_EXPLODING, VARIANCE_PRESERVING, guided_steps
from dgflow.diffusion.correction_specs import EpsilonScaling
from dgflow.diffusion.ddpm import ddpm
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.guidance import Point
from dgflow.diffusion.guidance_settings import DiscriminatorSettings

MODEL, REAL = (0.0, 1.0), (0.4, 0.6)  # mean and standard deviation of every value
WHOLE = DiscriminatorSettings(tau_min=0.0, second_order_weight=1.0)
EDM = [name for name in VARIANCE_EXPLODING if name.startswith("EDM")]
KINDS = {  # of the prediction; one scheduler of each form, where diffusers has it
    "DDIMScheduler": ("epsilon", "v_prediction", "sample"),
    "DPMSolverMultistepScheduler": ("epsilon", "v_prediction", "sample"),
    "EulerDiscreteScheduler": ("epsilon", "v_prediction", "sample"),
    "HeunDiscreteScheduler": ("epsilon", "v_prediction"),
    "EDMEulerScheduler": ("epsilon", "v_prediction"),
}
CASES = [
    (name, kind)
    for name in (*VARIANCE_PRESERVING, *VARIANCE_EXPLODING)
    if name != "DDPMScheduler"
    for kind in KINDS.get(name, ("epsilon",))
]


def log_density(x: Tensor, sigma: Tensor, law: tuple[float, float]) -> Tensor:
    mean, std = law
    variance = std**2 + sigma**2
    return -((x - mean) ** 2 / (2 * variance[:, None]) + variance[:, None].log() / 2).sum(1)


def exact_log_ratio(y: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
    x = y.double() * (1 + sigma.double() ** 2).sqrt()[:, None]
    return log_density(x, sigma.double(), REAL) - log_density(x, sigma.double(), MODEL)


def exact_term(settings: DiscriminatorSettings = WHOLE) -> DiscriminatorTerm:
    return DiscriminatorTerm(exact_log_ratio, settings, time=lambda sigma: sigma)


def made(name: str, kind: str = "epsilon", **config: Any) -> Any:
    known = inspect.signature(getattr(diffusers, name).__init__).parameters
    config = {"prediction_type": kind, "clip_sample": False, "set_alpha_to_one": True, **config}
    return getattr(diffusers, name)(**{key: value for key, value in config.items() if key in known})


def network(scheduler: Any, sample: Tensor, t: Tensor, law: tuple[float, float]) -> Tensor:
    """The exact prediction for data of that law, by the network's input and time alone."""
    mean, std = law
    own = float(scheduler.scale_model_input(torch.ones(1, dtype=torch.float64), t))
    exploding = type(scheduler).__name__ in VARIANCE_EXPLODING
    if type(scheduler).__name__ in EDM:
        data = scheduler.config.sigma_data
        sigma = math.sqrt(max(own**-2 - data**2, 0.0))
    elif exploding:
        sigma = math.sqrt(own**-2 - 1)
    else:
        abar = max(float(scheduler.alphas_cumprod[int(t)]), 1e-9)
        sigma = math.sqrt((1 - abar) / abar)
    x = sample if exploding else sample * math.sqrt(1 + sigma**2)
    denoised = (std**2 * x + sigma**2 * mean) / (std**2 + sigma**2)
    if type(scheduler).__name__ in EDM:  # Karras et al. 2022, table 1; v_prediction has the other sign
        skip, out = data**2 / (sigma**2 + data**2), sigma * data / math.sqrt(sigma**2 + data**2)
        sign = {"epsilon": 1, "v_prediction": -1}[scheduler.config.prediction_type]
        return sign * (denoised - skip * x) / out
    noise = (x - denoised) / sigma
    alpha = 1 / math.sqrt(1 + sigma**2)
    predictions = {"epsilon": noise, "sample": denoised, "v_prediction": alpha * (noise - sigma * denoised)}
    return predictions[scheduler.config.prediction_type]


def run(
    scheduler: Any, law: tuple[float, float], guidance: Any = None, steps: int = 12, samples: int = 64
) -> Tensor:
    """Samples [samples, 2] from the same noise every time."""
    torch.manual_seed(0)
    scheduler.set_timesteps(steps)
    sample = torch.randn(samples, 2, dtype=torch.float64) * float(scheduler.init_noise_sigma)

    def loop(sample: Tensor) -> Tensor:
        for t in scheduler.timesteps:
            scheduler.scale_model_input(sample, t)
            sample = scheduler.step(network(scheduler, sample, t, law), t, sample).prev_sample
        return sample

    if guidance is None:
        return loop(sample)
    with guided_steps(scheduler, guidance):
        return loop(sample)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_with_the_exact_ratio_the_model_predicts_what_a_network_of_the_real_data_does(name, kind):
    """diffusers' noise levels are float32: hence 1e-4. Without guidance, samples are 0.4 apart."""
    guided, real = run(made(name, kind), MODEL, [exact_term()]), run(made(name, kind), REAL)
    torch.testing.assert_close(guided, real, rtol=1e-4, atol=1e-4)
    assert (run(made(name, kind), MODEL) - real).abs().mean() > 0.2


@pytest.mark.parametrize(
    "scheduler",
    [
        made("DPMSolverMultistepScheduler", use_karras_sigmas=True),
        made("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++"),
        made("EulerDiscreteScheduler", use_karras_sigmas=True),
        made("DDIMScheduler", "v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_with_the_exact_ratio_the_samples_of_the_model_become_those_of_the_real_data(scheduler):
    """Within what 40 steps and 4,000 values leave: the model's have mean 0 and deviation 1."""
    torch.manual_seed(0)
    x = run(scheduler, MODEL, [exact_term()], steps=40, samples=2000)
    assert float(x.mean()) == pytest.approx(REAL[0], abs=0.05)
    assert float(x.std()) == pytest.approx(REAL[1], abs=0.05)


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("clip", [True, False])
def test_ddpms_step_is_that_of_dgflow(kind, clip):
    """Within diffusers' float32 coefficients. The window ends before the last step, which has no noise."""
    scheduler = made("DDPMScheduler", clip_sample=clip, variance_type=kind)
    schedule = DiscreteSchedule.of("linear", respacing="ddim20")
    draws = [torch.randn(16, 2, generator=torch.Generator().manual_seed(seed)).double() for seed in range(21)]
    learned = kind == "learned_range"

    def predict(y: Tensor, time: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return network(scheduler, y.double(), time[0], MODEL), torch.tanh(y.double()) if learned else None

    guidance = [exact_term(DiscriminatorSettings(weight=1.5, tau_min=0.02))]
    own = ddpm(
        predict,
        draws[0],
        schedule,
        noise=lambda step: draws[1 + step],
        guidance=guidance,
        clip_denoised=clip,
        fixed_variance="large" if kind == "fixed_large" else "small",
    )
    sample = draws[0]
    scheduler.set_timesteps(20)
    with guided_steps(scheduler, guidance), pytest.MonkeyPatch.context() as patch:
        for step, t in enumerate(scheduler.timesteps):
            epsilon, v = predict(sample.float(), t[None])
            noise = draws[1 + step]
            patch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, noise=noise, **__: noise)
            output = epsilon if v is None else torch.cat([epsilon, v], dim=1)
            sample = scheduler.step(output, t, sample, return_dict=False)[0]
    assert own.guidance_nfe == 19
    torch.testing.assert_close(sample, own.x, rtol=2e-5, atol=2e-5)


def test_a_state_of_two_halves_is_asked_about_the_first_once():
    asked = []

    def told(y: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        asked.append((len(y), labels))
        return exact_log_ratio(y, sigma, labels)

    scheduler, labels = made("DDIMScheduler"), torch.arange(3)
    scheduler.set_timesteps(10)
    sample, output = torch.randn(3, 2).repeat(2, 1), torch.randn(3, 2).repeat(2, 1)
    term = DiscriminatorTerm(told, WHOLE, time=lambda sigma: sigma)
    with guided_steps(scheduler, [term], labels):
        both = scheduler.step(output, scheduler.timesteps[0], sample).prev_sample
    with guided_steps(scheduler, [term]):
        one = scheduler.step(output[:3], scheduler.timesteps[0], sample[:3]).prev_sample
    assert [count for count, _ in asked] == [3, 3] and asked[0][1] is labels
    torch.testing.assert_close(both, one.repeat(2, 1), rtol=0, atol=0)
    with guided_steps(scheduler, [term], torch.arange(4)), pytest.raises(ValueError, match="6 samples .* 4"):
        scheduler.step(output, scheduler.timesteps[0], sample)


def test_a_boost_counts_the_steps_and_heuns_second_evaluation_has_its_own_weight():
    scheduler, seen = made("HeunDiscreteScheduler"), []

    def looks(point: Point) -> tuple[Tensor | None, Tensor | None]:
        seen.append((point.step, point.order))
        return None, None

    run(scheduler, MODEL, [looks], steps=3)
    assert seen == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)]


def test_afterwards_the_scheduler_is_as_before_even_after_an_error():
    scheduler = made("DDIMScheduler")
    with pytest.raises(RuntimeError, match="halt"), guided_steps(scheduler, [exact_term()]):
        assert "eta" in inspect.signature(scheduler.step).parameters
        raise RuntimeError("halt")
    assert "step" not in vars(scheduler)


@pytest.mark.parametrize(
    ("scheduler", "guidance", "expected"),
    [
        (made("FlowMatchEulerDiscreteScheduler"), [], "noise levels are known .* found FlowMatchEuler"),
        (made("DPMSolverMultistepScheduler", "flow_prediction"), [], "found flow_prediction"),
        (made("UniPCMultistepScheduler", use_flow_sigmas=True), [], "found use_flow_sigmas"),
        (made("DDIMScheduler"), [EpsilonScaling(factor=1.01).build()], "found NoiseScaling"),
        (made("DDIMScheduler"), exact_term(), re.escape("found DiscriminatorTerm: use guidance=[term]")),
        (
            made("DDIMScheduler"),
            [torch.nn.Linear(2, 1)],
            re.escape("found Linear: make one of a discriminator"),
        ),
        (made("DDIMScheduler"), [WHOLE], "found DiscriminatorSettings"),
    ],
)
def test_what_cannot_be_guided_is_refused(scheduler, guidance, expected):
    with pytest.raises(ValueError, match=expected), guided_steps(scheduler, guidance):
        pass


def test_without_diffusers_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.delitem(sys.modules, "dgflow.diffusers")
    with pytest.raises(ImportError, match=re.escape("pip install 'dgflow[diffusers]'")):
        importlib.import_module("dgflow.diffusers")
