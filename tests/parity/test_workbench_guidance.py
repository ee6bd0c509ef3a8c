"""Guidance in an interval against Kynkäänniemi et al. 2024, and scaled noise against Ning et al. 2023 (EDM-ES
and ADM-ES), with closed forms in the place of networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from parity.goldens import Case, cases, close, load
from parity.toys import ToyMixture
from torch import Tensor

from dgflow.diffusion.ablation import ablation, ablation_sigmas
from dgflow.diffusion.correction_settings import NetworkSettings, ScalingSettings
from dgflow.diffusion.corrections import NetworkCorrection, NoiseScaling
from dgflow.diffusion.ddpm import ddim, ddpm
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.guidance import Guide, Point
from dgflow.diffusion.heun import edm_sigmas, heun
from dgflow.diffusion.samplers import Sample
from dgflow.diffusion.score_model import ScoreModel
from dgflow.diffusion.times import per_sample


def is_interval(case: Case) -> bool:
    return "guidance-interval" in case.reference and "G" in case.config.get("sampler", {})


def is_edm_scaling(case: Case) -> bool:
    return "EDM-ES" in case.reference and "eps_scaler" in case.config.get("sampler", {})


def is_adm_scaling(case: Case) -> bool:
    return "ADM-ES" in case.reference and "eps_scaler" in case.config


CLAIMS = [is_interval, is_edm_scaling, is_adm_scaling]

NOT_OURS = ("solver", "eps_scaler", "G", "guidance_interval", "num_steps")


class Recorder:
    """A denoiser, and the noise levels at which it was asked."""

    def __init__(self, denoiser: Callable[..., Tensor]) -> None:
        self.denoiser = denoiser
        self.levels: list[Tensor] = []

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        self.levels.append(sigma[0])
        return self.denoiser(x, sigma, class_labels)


def churn(config: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> dict[str, Any]:
    own = {name: value for name, value in config.items() if name not in NOT_OURS}
    return own | {"churn_noise": arrays["in_noise"].__getitem__}


@pytest.mark.parametrize("case", cases(is_interval, "workbench"))
def test_an_interval_of_steps_is_a_range_of_noise_levels(case: Case) -> None:
    """Steps first to last, as the range between the levels at which they begin."""
    config, arrays, _ = load(case)
    options = config["sampler"]
    levels = edm_sigmas(options["num_steps"])
    window = {}
    if options.get("guidance_interval") is not None:
        first, last = options["guidance_interval"]
        window = {"sigma_min": levels[last], "sigma_max": levels[first]}
    own = Recorder(ToyMixture.of(arrays))
    other = Recorder(ToyMixture.of(arrays, "ugm"))
    correction = NetworkCorrection(
        ScoreModel(other).without_labels(), NetworkSettings(weight=options["G"], **window)
    )
    sample = heun(
        own,
        arrays["in_latents"],
        levels,
        class_labels=arrays.get("in_labels"),
        guidance=[correction],
        **churn(options, arrays),
    )
    close(case, "x", sample.x.float(), arrays["out_x"], of_max=1e-6)
    close(case, "eval_t", torch.stack(own.levels), arrays["out_eval_t"], rtol=1e-12)
    close(case, "guided_t", torch.stack(other.levels), arrays["out_guided_t"], rtol=1e-12)
    assert (sample.nfe, sample.guidance_nfe) == (len(own.levels), len(other.levels))


class FirstOrder:
    """A correction that leaves the second evaluation of a step alone."""

    def __init__(self, scaling: NoiseScaling) -> None:
        self.scaling = scaling

    def correct(self, point: Point) -> Tensor | None:
        return self.scaling.correct(point) if point.order == 1 else None


@pytest.mark.parametrize("case", cases(is_edm_scaling, "workbench"))
def test_scaled_noise_samples_as_edm_es(case: Case) -> None:
    """Its ablation sampler scales only the first evaluation of a step, the one that Euler's method has."""
    config, arrays, _ = load(case)
    options = config["sampler"]
    scaling = NoiseScaling(ScalingSettings(factor=options["eps_scaler"]))
    shared: dict[str, Any] = {"class_labels": arrays.get("in_labels"), **churn(options, arrays)}
    denoiser, latents = ToyMixture.of(arrays), arrays["in_latents"]
    if "solver" in options:
        levels, solver = ablation_sigmas(options["num_steps"]), options["solver"]
        sample = ablation(denoiser, latents, levels, solver=solver, guidance=[FirstOrder(scaling)], **shared)
    else:
        sample = heun(denoiser, latents, edm_sigmas(options["num_steps"]), guidance=[scaling], **shared)
    close(case, "x", sample.x, arrays["out_x"], of_max=1e-6)


class ToyPredictor:
    """epsilon = a y + b sin(t / 100) and v = tanh(c y), by channel; remembers the states that it sees."""

    def __init__(self, arrays: Mapping[str, Tensor], learns_variance: bool) -> None:
        self.a, self.b, self.c = (arrays[f"in_{name}"][:, None, None] for name in "abc")
        self.learns_variance = learns_variance
        self.states: list[Tensor] = []

    def __call__(self, y: Tensor, time: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        self.states.append(y)
        epsilon = self.a * y + self.b * torch.sin(per_sample(time, y) / 100)
        return epsilon, torch.tanh(self.c * y) if self.learns_variance else None


class Constant:
    """A gradient that is g with respect to the state y, everywhere."""

    def __init__(self, gradient: Tensor) -> None:
        self.gradient = gradient

    def __call__(self, point: Point) -> tuple[Tensor, None]:
        scale = per_sample((1 + point.sigma.square()).rsqrt(), point.x)
        return scale * self.gradient.double().expand_as(point.x), None


class Watch:
    """A term that only looks at the corrected images."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []

    def __call__(self, point: Point) -> tuple[None, None]:
        assert point.denoised is not None
        self.images.append(point.denoised)
        return None, None


@pytest.mark.parametrize("case", cases(is_adm_scaling, "workbench"))
def test_scaled_noise_samples_as_adm_es(case: Case) -> None:
    """Guided DDIM divides the guided noise once more."""
    config, arrays, _ = load(case)
    conditional = "with cond_fn" in config["kind"]
    schedule = DiscreteSchedule.of(
        config["noise_schedule"], config["diffusion_steps"], config["timestep_respacing"]
    )
    predictor, watch = ToyPredictor(arrays, config["learn_sigma"]), Watch()
    guidance: list[Guide] = [NoiseScaling(ScalingSettings(factor=config["eps_scaler"], twice=True)), watch]
    if conditional:
        guidance.append(Constant(arrays["in_g"]))
    options: dict[str, Any] = {"guidance": guidance, "clip_denoised": config["clip_denoised"]}
    options["noise"] = arrays["in_noise"].__getitem__
    ancestral = config["kind"].startswith("p_sample_loop")
    sample: Sample = (ddpm if ancestral else ddim)(predictor, arrays["in_x_T"], schedule, **options)

    assert arrays["out_timestep_map"].tolist() == list(schedule.timestep_map)
    assert int(arrays["out_n_draws"]) == sample.nfe == len(predictor.states)
    close(case, "x", sample.x, arrays["out_x"].double(), of_max=2e-5)
    states = torch.stack([*(y.double() for y in predictor.states[1:]), sample.x])[:, 0]
    close(case, "samples", states, arrays["out_samples"], of_max=2e-5)
    images = torch.stack(watch.images)
    if config["clip_denoised"]:
        images = images.clamp(-1.0, 1.0)
    if conditional:  # the published one is that of the guided noise
        y = torch.stack([y.double() for y in predictor.states])
        abar = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64).flip(0).reshape(-1, 1, 1, 1, 1)
        x, factor = y / abar.sqrt(), config["eps_scaler"]
        images = x - (x - images - (1 - abar) / abar.sqrt() * arrays["in_g"].double()) / factor
    close(case, "pred_xstart", images[:, 0], arrays["out_pred_xstart"], of_max=2e-5)
