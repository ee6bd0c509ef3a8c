"""Discrete diffusions against the numbers of guided-diffusion and DiT: betas, respacing, coefficients, and
the noisy classifier's loss."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
import torch
from parity.goldens import Case, cases, close, load
from torch import Tensor

from dgflow.diffusion.discrete import DiscreteSchedule, cosine_betas, linear_betas, respaced_timesteps
from dgflow.diffusion.losses import classifier_loss
from dgflow.diffusion.times import per_sample
from dgflow.networks.adm.encoder import ADMEncoderModule
from dgflow.weights.tensors import load_into

BETAS = {"linear": linear_betas, "cosine": cosine_betas, "squaredcos": cosine_betas}
"""By the names that the originals use."""


def is_schedule(case: Case) -> bool:
    return (
        "respace.py" in case.reference
        and {"timestep_respacing", "noise_schedule"} <= set(case.config)
        and "net" not in case.config
    )


def is_named_betas(case: Case) -> bool:
    return "get_named_beta_schedule" in case.reference and "space_timesteps" in case.reference


def is_q_sample(case: Case) -> bool:
    return "q_posterior_mean_variance" in case.reference


def is_classifier_loss(case: Case) -> bool:
    return "classifier_train.py: main.forward_backward_log" in case.reference


CLAIMS: list[Callable[[Case], bool]] = [is_schedule, is_named_betas, is_q_sample, is_classifier_loss]


def exact(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def q_sample(schedule: DiscreteSchedule, x0: Tensor, index: Tensor, noise: Tensor) -> Tensor:
    """sqrt(abar) x0 + sqrt(1 - abar) noise at indices [B], in the dtype of x0."""
    abar = exact(schedule.alphas_cumprod)[index]
    kept, added = (per_sample(value.sqrt().to(x0.dtype), x0) for value in (abar, 1 - abar))
    return kept * x0 + added * noise


@pytest.mark.parametrize("case", cases(is_schedule))
def test_every_number_of_a_schedule_is_the_published_one(case: Case) -> None:
    config, arrays, _ = load(case)
    name = "linear" if config["noise_schedule"] == "linear" else "cosine"
    schedule = DiscreteSchedule.of(name, config["steps"], config["timestep_respacing"] or "")
    abar, sigma = exact(schedule.alphas_cumprod), exact(schedule.sigmas)
    found = {
        "betas": exact(schedule.betas),
        "alphas_cumprod": abar,
        "alphas_cumprod_prev": exact(schedule.alphas_cumprod_prev),
        "alphas_cumprod_next": exact((*schedule.alphas_cumprod[1:], 0.0)),
        "sqrt_alphas_cumprod": abar.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - abar).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - abar).log(),
        "sqrt_recip_alphas_cumprod": abar.rsqrt(),
        "sqrt_recipm1_alphas_cumprod": sigma,
        "posterior_variance": exact(schedule.posterior_variance),
        "posterior_log_variance_clipped": exact(schedule.posterior_log_variance_clipped),
        "posterior_mean_coef1": exact(schedule.posterior_mean_coef1),
        "posterior_mean_coef2": exact(schedule.posterior_mean_coef2),
        "timestep_map": torch.tensor(schedule.timestep_map),
        "original_num_steps": torch.tensor(schedule.original_num_steps),
    }
    assert {key.removeprefix("out_") for key in arrays if key.startswith("out_")} == set(found)
    for key, value in found.items():
        close(case, key, value, arrays[f"out_{key}"], rtol=1e-12 if value.is_floating_point() else 0)


@pytest.mark.parametrize("case", cases(is_named_betas))
def test_named_betas_and_respacings_are_the_published_ones(case: Case) -> None:
    """Outputs are named after what they hold: `cosine_50` betas, `space_300_10,15,20` timesteps,
    `space_1000_[1000]` from a list."""
    _, arrays, _ = load(case)
    compared = 0
    for key, expected in arrays.items():
        betas = re.fullmatch(r"out_(?:dit_)?(linear|cosine|squaredcos)(?:_cap_v2)?_(\d+)", key)
        respaced = re.fullmatch(r"out_(?:dit_)?space_(\d+)_(.*)", key)
        if betas:
            close(case, key, exact(BETAS[betas[1]](int(betas[2]))), expected, rtol=1e-12)
        elif respaced:
            respacing = json.loads(respaced[2]) if respaced[2].startswith("[") else respaced[2]
            assert respaced_timesteps(int(respaced[1]), respacing) == tuple(expected.tolist()), key
        compared += bool(betas or respaced)
    assert compared == sum(key.startswith("out_") for key in arrays)


@pytest.mark.parametrize("case", cases(is_q_sample))
def test_noising_and_the_posterior_are_the_published_ones(case: Case) -> None:
    config, arrays, _ = load(case)
    x0, noise, index = arrays["in_x0"], arrays["in_noise"], arrays["in_t"]
    tolerance = {"rtol": 1e-5, "atol": 1e-6}
    compared = set()

    def compare(key: str, value: Tensor, **options: float) -> None:
        close(case, key, value, arrays[f"out_{key}"], **options)
        compared.add(f"out_{key}")

    for key in arrays:
        if found := re.fullmatch(r"out_betas_(linear|cosine)_(\d+)", key):
            compare(key.removeprefix("out_"), exact(BETAS[found[1]](int(found[2]))), rtol=1e-12)
    for name in ("linear", "cosine"):
        schedule = DiscreteSchedule.of(name, config["steps"])

        def at(values: tuple[float, ...]) -> Tensor:
            return exact(values)[index]

        y = q_sample(schedule, x0, index, noise)
        compare(f"q_sample_{name}", y, **tolerance)
        compare(f"q_mean_{name}", q_sample(schedule, x0, index, torch.zeros_like(x0)), **tolerance)
        compare(f"q_var_{name}", 1 - at(schedule.alphas_cumprod), **tolerance)
        compare(f"q_logvar_{name}", (1 - at(schedule.alphas_cumprod)).log(), **tolerance)
        coef1, coef2 = (
            at(values)[:, None, None, None]
            for values in (schedule.posterior_mean_coef1, schedule.posterior_mean_coef2)
        )
        compare(f"post_mean_{name}", coef1 * x0 + coef2 * y, **tolerance)
        compare(f"post_var_{name}", at(schedule.posterior_variance), **tolerance)
        compare(f"post_logvar_clipped_{name}", at(schedule.posterior_log_variance_clipped), **tolerance)
    assert compared == {key for key in arrays if key.startswith("out_")}


@pytest.mark.parametrize("case", cases(is_classifier_loss))
def test_the_noisy_classifier_s_loss_and_gradients_are_the_published_ones(case: Case) -> None:
    """The classifier is told timesteps; its parameters, and so the published gradient norms, come in the
    published order."""
    config, arrays, weights = load(case)
    options = {key: value for key, value in config["classifier"].items() if key != "use_fp16"}
    net = ADMEncoderModule(**options, time_scale=1.0)
    load_into(net, weights["classifier"], source="classifier")
    schedule = DiscreteSchedule.of(config["noise_schedule"], config["steps"])
    labels = arrays["in_y"]
    y = q_sample(schedule, arrays["in_x0"], arrays["in_t"], arrays["in_noise"])
    logits = net(y, arrays["in_t"])
    loss = classifier_loss(logits, labels)
    loss.mean().backward()
    rank = (logits > logits.gather(1, labels[:, None])).sum(1)
    gradients = {
        name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None
    }
    found = {
        "x_t": (y, {"rtol": 1e-4, "atol": 1e-6}),
        "logits": (logits, {"rtol": 1e-4, "of_max": 1e-5}),
        "log_train_loss": (loss, {"rtol": 1e-4}),
        "log_train_acc_1": ((rank < 1).float(), {}),
        "log_train_acc_5": ((rank < 5).float(), {}),
        "loss_mean": (loss.mean(), {"rtol": 1e-4}),
        "grad_norms": (
            torch.stack([gradient.double().norm() for gradient in gradients.values()]),
            {"rtol": 1e-4},
        ),
    }
    for key in arrays:
        if key.startswith("out_grad."):
            found[key.removeprefix("out_")] = (gradients[key.removeprefix("out_grad.")], {"of_max": 1e-4})
    assert {key for key in arrays if key.startswith("out_")} == {f"out_{key}" for key in found}
    for key, (value, tolerance) in found.items():
        close(case, key, value, arrays[f"out_{key}"], **tolerance)
