"""Guided DDPM and DDIM against the samplers of guided-diffusion, ED-DPM and DG's DiT, step by step and with
their networks.

Wrappers that remember their calls show the states: what the predictor sees in step k + 1 is the sample after
    step k. The originals draw
noise in every step and drop what they draw in the last; these samplers do not ask for it, and DDIM asks for
    none with eta = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from parity.goldens import Case, cases, close, load
from torch import Tensor

from dgflow.diffusion.classifier_free import ClassifierFreePredictor
from dgflow.diffusion.classifier_guidance import ClassifierTerm
from dgflow.diffusion.ddpm import ddim, ddpm
from dgflow.diffusion.denoisers import epsilon_only, learned_range
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.guidance import Point
from dgflow.diffusion.guidance_settings import (
    ClassifierFree,
    ClassifierSettings,
    DiscriminatorSettings,
    Switch,
)
from dgflow.diffusion.samplers import Predictor, Sample
from dgflow.networks.adm.encoder import ADMEncoderModule
from dgflow.networks.adm.unet import ADMUNetModule
from dgflow.networks.discriminator.module import DiscriminatorModule
from dgflow.networks.dit.module import DiTModule
from dgflow.weights.tensors import load_into

TRAINED_STEPS = 1000
"""Length of the diffusion that ED-DPM and DiT respace, which their cases do not repeat."""


def is_guided_diffusion(case: Case) -> bool:
    return case.scope == "core" and "gaussian_diffusion.py: p_sample_loop/ddim_sample_loop" in case.reference


def is_eds(case: Case) -> bool:
    return case.scope == "core" and "ED-DPM" in case.reference and "p_sample / ddim_sample" in case.reference


def is_dit(case: Case) -> bool:
    return (
        case.scope == "core"
        and "DiT.forward_with_dg" in case.reference
        and "num_sampling_steps" in case.config
    )


CLAIMS: list[Callable[[Case], bool]] = [is_guided_diffusion, is_eds, is_dit]


def encoder(config: dict[str, Any], weights: dict[str, Tensor], time_scale: float) -> ADMEncoderModule:
    options = {
        key: value for key, value in config.items() if key not in ("use_fp16", "condition", "num_class")
    }
    classes = config["num_class"] if config.get("condition") else None
    net = ADMEncoderModule(**options, num_classes=classes, time_scale=time_scale)
    load_into(net, weights, source="encoder")
    return net.eval().requires_grad_(False)


def adm_predictor(config: dict[str, Any], weights: dict[str, Tensor]) -> Predictor:
    """The options of guided-diffusion's `create_model`; attention is given as image sides there."""
    size = config["image_size"]
    heads = config.get("num_head_channels", -1)
    net = ADMUNetModule(
        image_size=size,
        model_channels=config["num_channels"],
        out_channels=6 if config["learn_sigma"] else 3,
        num_res_blocks=config["num_res_blocks"],
        attention_resolutions=[size // int(side) for side in config["attention_resolutions"].split(",")],
        channel_mult=[float(mult) for mult in config["channel_mult"].split(",")],
        num_classes=len(weights["label_emb.weight"]) if config["class_cond"] else None,
        num_head_channels=None if heads == -1 else heads,
        num_heads=config["num_heads"],
        num_heads_upsample=max(0, config.get("num_heads_upsample", -1)) or None,
        use_scale_shift_norm=config["use_scale_shift_norm"],
        resblock_updown=config["resblock_updown"],
        new_attention_order=config.get("use_new_attention_order", False),
        dropout=config.get("dropout", 0.0),
    )
    load_into(net, weights, source="net")
    net.eval().requires_grad_(False)
    predictor = learned_range(net) if config["learn_sigma"] else epsilon_only(net)
    # The original's sampler gives labels to the classifier only, where the network knows no classes.
    return predictor if config["class_cond"] else lambda y, time, class_labels: predictor(y, time, None)


class Recorder:
    """A predictor, a term or a source of noise that remembers its calls and results."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.calls: list[tuple[Any, Any]] = []

    def __call__(self, *args: Any) -> Any:
        result = self.function(*args)
        self.calls.append((args, result))
        return result


def states(predictor: Recorder, sample: Sample) -> Tensor:
    """The sample after every step."""
    return torch.stack([*(args[0].double() for args, _ in predictor.calls[1:]), sample.x])


def denoised_images(predictor: Recorder, schedule: DiscreteSchedule, clip: bool) -> Tensor:
    """The denoised image of every step, before guidance."""
    rows = []
    for (y, *_), (epsilon, _) in [(args, result) for args, result in predictor.calls]:
        abar = schedule.alphas_cumprod[-1 - len(rows)]
        rows.append((y.double() - (1 - abar) ** 0.5 * epsilon.double()) / abar**0.5)
    return torch.stack(rows).clamp(-1, 1) if clip else torch.stack(rows)


def gradients(term: Recorder, like: Tensor) -> Tensor:
    """Every step's gradient with respect to y; zero where the term was not evaluated."""
    rows = []
    for (point,), (gradient, _) in term.calls:
        scale = (1 + point.sigma**2).sqrt().reshape(-1, 1, 1, 1)
        rows.append(torch.zeros_like(like, dtype=torch.float64) if gradient is None else scale * gradient)
    return torch.stack(rows)


@pytest.mark.parametrize("case", cases(is_guided_diffusion))
def test_ddpm_and_ddim_are_the_published_ones(case: Case) -> None:
    config, arrays, weights = load(case)
    respacing = config["timestep_respacing"] or ""
    schedule = DiscreteSchedule.of(config["noise_schedule"], config["steps"], respacing)
    # Networks trained with rescaled timesteps, and the classifiers beside them, are told 0 .. 1000 whatever
    # the number of steps.
    time_scale = 1000 / config["steps"] if config["rescale_timesteps"] else 1.0
    time = schedule.timesteps_from_sigma(time_scale)
    predictor = Recorder(
        adm_predictor(config["net"] | {"learn_sigma": config["learn_sigma"]}, weights["net"])
    )

    def rescaled(y: Tensor, timestep: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return predictor(y, time_scale * timestep, labels)

    terms = []
    if config["classifier_scale"] is not None:
        classifier = encoder(config["classifier"], weights["classifier"], time_scale=1.0)
        terms = [
            Recorder(
                ClassifierTerm(classifier, ClassifierSettings(weight=config["classifier_scale"]), time=time)
            )
        ]
    noise = Recorder(arrays["in_noise"].__getitem__)
    options: dict[str, Any] = {
        "class_labels": arrays.get("in_y"),
        "guidance": terms,
        "noise": noise,
        "clip_denoised": config["clip_denoised"],
    }
    if config["eta"] is None:
        sample = ddpm(rescaled, arrays["in_x_T"], schedule, fixed_variance="large", **options)
    else:
        sample = ddim(rescaled, arrays["in_x_T"], schedule, eta=config["eta"], **options)

    num_steps = len(arrays["out_samples"])
    asked = num_steps if config["classifier_scale"] else 0  # a term without weight is not asked
    assert (sample.nfe, sample.guidance_nfe) == (num_steps, asked)
    assert arrays["out_timestep_map"].tolist() == list(schedule.timestep_map)
    assert int(arrays["out_n_noise_draws"]) == num_steps
    assert [args[0] for args, _ in noise.calls] == ([] if config["eta"] == 0 else list(range(num_steps - 1)))
    told = torch.stack([args[1][0] for args, _ in predictor.calls])
    torch.testing.assert_close(told.double(), arrays["out_model_t"].double(), rtol=1e-6, atol=1e-6)
    for found, expected in zip(states(predictor, sample), arrays["out_samples"], strict=True):
        close(case, "samples", found, expected, of_max=1e-4)
    denoised = denoised_images(predictor, schedule, config["clip_denoised"])
    for term in terms:
        gradient = gradients(term, sample.x)
        for found, expected in zip(gradient, arrays["out_cond_grads"], strict=True):
            close(case, "cond_grads", found, expected, of_max=1e-4)
        if config["eta"] is not None:
            # DDIM's is the guided one: epsilon - sqrt(1 - abar) * gradient moves it by (1 - abar) /
            # sqrt(abar) * gradient.
            abar = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64).flip(0).reshape(-1, 1, 1, 1, 1)
            denoised = denoised + (1 - abar) / abar.sqrt() * gradient
    close(case, "pred_xstart", denoised, arrays["out_pred_xstart"], atol=1e-2)
    if "out_x_final_uint8" in arrays:
        pixels = ((sample.x + 1) * 127.5).clamp(0, 255).to(torch.uint8)
        assert int((pixels.int() - arrays["out_x_final_uint8"].int()).abs().max()) <= 1


@pytest.mark.parametrize("entropy_scaling", [True, False], ids=["eds", "plain"])
@pytest.mark.parametrize("case", cases(is_eds))
def test_entropy_scaled_guidance_samples_as_published(case: Case, entropy_scaling: bool) -> None:
    config, arrays, weights = load(case)
    respacing = f"ddim{config['steps']}" if config["ddim"] else str(config["steps"])
    schedule = DiscreteSchedule.of(config["noise_schedule"], TRAINED_STEPS, respacing)
    predictor = Recorder(
        adm_predictor(config["net"] | {"learn_sigma": config["learn_sigma"]}, weights["net"])
    )
    classifier, time = (
        encoder(config["classifier"], weights["classifier"], time_scale=1.0),
        schedule.timesteps_from_sigma(),
    )
    term = Recorder(
        ClassifierTerm(
            classifier,
            ClassifierSettings(weight=config["classifier_scale"], entropy_scaling=entropy_scaling),
            time=time,
        )
    )
    options: dict[str, Any] = {
        "class_labels": arrays["in_y"],
        "guidance": [term],
        "noise": arrays["in_noise"].__getitem__,
    }
    if config["ddim"]:
        sample = ddim(
            predictor,
            arrays["in_x_T"],
            schedule,
            eta=config["eta"],
            clip_denoised=config["clip_denoised"],
            **options,
        )
    else:
        sample = ddpm(
            predictor,
            arrays["in_x_T"],
            schedule,
            fixed_variance="large",
            clip_denoised=config["clip_denoised"],
            **options,
        )

    kind = "eds" if entropy_scaling else "plain"
    assert arrays["out_timestep_map"].tolist() == list(schedule.timestep_map)
    for found, expected in zip(states(predictor, sample), arrays[f"out_steps_{kind}"], strict=True):
        close(case, f"steps_{kind}", found, expected, of_max=1e-4)
    # The scale is what the term multiplies a gradient of weight 1 by.
    plain = ClassifierTerm(classifier, time=time)
    for ((point,), (gradient, _)), expected in zip(term.calls, arrays[f"out_scale_{kind}"], strict=True):
        unscaled, _ = plain(point)
        assert unscaled is not None
        close(
            case,
            f"scale_{kind}",
            gradient.flatten(1).norm(dim=1) / unscaled.flatten(1).norm(dim=1),
            expected,
            rtol=1e-5,
        )


def doubled(net: DiTModule, config: dict[str, Any]) -> Predictor:
    """The original's network: 2 n states of which the first n are shown to both labels; both halves get the
    guided epsilon."""

    def predict(y: Tensor, time: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor]:
        half = y[: len(y) // 2]
        epsilon, v = net(torch.cat([half, half]), time, class_labels).chunk(2, dim=1)
        conditional, null = epsilon[:, :3].chunk(2)
        scale = torch.where(
            time[: len(half)] > config["branch_time"], config["LT_cfg"], config["ST_cfg"]
        ).reshape(-1, 1, 1, 1)
        guided = null + scale * (conditional - null)
        return torch.cat([torch.cat([guided, guided]), epsilon[:, 3:]], dim=1), v

    return predict


def on_first_half(term: DiscriminatorTerm) -> Callable[[Point], tuple[Tensor | None, Tensor | None]]:
    """The original's guidance: of the first n states, repeated for the others."""

    def guide(point: Point) -> tuple[Tensor | None, Tensor | None]:
        n = len(point.x) // 2
        labels = None if point.class_labels is None else point.class_labels[:n]
        gradient, _ = term(
            Point(point.x[:n], point.sigma[:n], labels, point.step, point.order, point.sigma_bounds)
        )
        return None if gradient is None else torch.cat([gradient, gradient]), None

    return guide


@pytest.mark.parametrize("form", ["original", "halved"])
@pytest.mark.parametrize("case", cases(is_dit))
def test_guided_dit_samples_as_published(case: Case, form: str) -> None:
    """Compare the original's form, with 2 n states and labels, and n states with its first half."""
    config, arrays, weights = load(case)
    schedule = DiscreteSchedule.of("linear", TRAINED_STEPS, config["num_sampling_steps"])
    net = DiTModule(**{key: value for key, value in config["net"].items() if key != "class_dropout_prob"})
    load_into(net, weights["net"], source="net")
    net.eval().requires_grad_(False)
    guidance: list[Any] = []
    if config["dg_scale"] and config["time_min"] < TRAINED_STEPS - 1:
        features = encoder(config["classifier"], weights["classifier"], time_scale=999.0)
        head = encoder(config["disc"], weights["disc"], time_scale=999.0)
        term = DiscriminatorTerm(
            DiscriminatorModule(features, head).eval(),
            DiscriminatorSettings(
                weight=config["dg_scale"], tau_min=schedule.tau_after(config["time_min"]), saturate=True
            ),
            time=schedule.timesteps_from_sigma(1 / (TRAINED_STEPS - 1)),
        )
        guidance = [Recorder(on_first_half(term) if form == "original" else term)]
    rows = len(arrays["in_z"])
    if form == "original":
        predictor = Recorder(doubled(net, config))
    else:
        rows //= 2
        scale = Switch(above=config["LT_cfg"], below=config["ST_cfg"], timestep=config["branch_time"])
        predictor = Recorder(
            ClassifierFreePredictor(
                learned_range(net), config["net"]["num_classes"], ClassifierFree(scale=scale, channels=3)
            )
        )
    noise = Recorder(lambda step: arrays["in_noise"][step][:rows])
    sample = ddpm(
        predictor,
        arrays["in_z"][:rows],
        schedule,
        class_labels=arrays["in_y"][:rows],
        guidance=guidance,
        noise=noise,
        clip_denoised=config["clip_denoised"],
    )

    num_steps = len(arrays["out_samples"])
    assert (sample.nfe, int(arrays["out_n_noise_draws"])) == (num_steps, num_steps)
    assert [args[0] for args, _ in noise.calls] == list(range(num_steps - 1))
    assert arrays["out_timestep_map"].tolist() == list(schedule.timestep_map)
    if "out_cond_t" in arrays:
        assert arrays["out_cond_t"].tolist() == [float(args[1][0]) for args, _ in predictor.calls]
    for key in ("betas", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"):
        close(
            case,
            key,
            torch.tensor(getattr(schedule, key), dtype=torch.float64),
            arrays[f"out_{key}"],
            rtol=1e-12,
        )
    for found, expected in zip(states(predictor, sample), arrays["out_samples"], strict=True):
        close(case, "samples", found, expected[:rows], of_max=1e-4)
    for found, expected in zip(
        denoised_images(predictor, schedule, config["clip_denoised"]), arrays["out_pred_xstart"], strict=True
    ):
        close(case, "pred_xstart", found, expected[:rows], of_max=1e-4)
    close(case, "kept_half", sample.x[: len(arrays["out_kept_half"])], arrays["out_kept_half"], of_max=1e-4)
    assert sample.guidance_nfe == (
        sum(timestep > config["time_min"] for timestep in schedule.timestep_map) if guidance else 0
    )
    for recorded in guidance:
        for found, expected in zip(gradients(recorded, sample.x), arrays["out_cond_grads"], strict=True):
            close(case, "cond_grads", found, expected[:rows], of_max=1e-4)
