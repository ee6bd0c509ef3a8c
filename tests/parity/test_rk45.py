"""The probability-flow ODE of Soft Truncation and LSGM against the numbers of their reference
implementations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from parity.goldens import Case, cases, close, load
from parity.lsgm_arguments import prior_from, vae_from
from torch import Tensor
from torch.nn import functional as F

from dgflow.diffusion.denoisers import VPDenoiser
from dgflow.diffusion.rk45 import rk45
from dgflow.diffusion.samplers import Denoiser, Sample
from dgflow.diffusion.times import (
    LinearVP,
    TimeMap,
    beta,
    integrated_beta,
    mean_std,
    per_sample,
    sigma_from_tau,
    tau_from_sigma,
)
from dgflow.networks.ncsnpp.module import NCSNppModule
from dgflow.networks.ncsnpp.spec import TIME_SCALE
from dgflow.weights.tensors import load_into

NETWORK_OPTIONS = (
    "nf",
    "ch_mult",
    "num_res_blocks",
    "attn_resolutions",
    "dropout",
    "fir",
    "progressive",
    "progressive_input",
)
NETWORK_OPTIONS += (
    "progressive_combine",
    "embedding_type",
    "fourier_scale",
    "scale_by_sigma",
    "sigma_min",
    "sigma_max",
)


def is_soft_truncation(case: Case) -> bool:
    return (
        "get_ode_sampler" in case.reference
        and case.config.get("full", {}).get("training", {}).get("sde") == "vpsde"
    )


def has_toy_prior(case: Case) -> bool:
    form = case.config.get("dae", {}).get("form", "")
    return "ode_eps" in case.config and form.startswith("conv2(tanh(conv1(x)+t1(t)")


def is_toy_prior(case: Case) -> bool:
    return has_toy_prior(case) and case.config["sde_type"] == "vpsde"


def is_geometric_toy_prior(case: Case) -> bool:
    return has_toy_prior(case) and case.config["sde_type"] == "geometric_sde" and case.config["sigma2_0"] == 0


def is_end_to_end(case: Case) -> bool:
    return {"dae", "vae", "sde", "ode_eps"} <= case.config.keys() and case.config["sde"][
        "sde_type"
    ] == "vpsde"


CLAIMS = [is_soft_truncation, is_toy_prior, is_end_to_end]


def lsgm_vp(config: dict[str, Any]) -> LinearVP:
    return LinearVP(config["beta_start"], config["beta_end"], config["sigma2_0"])


def solve(
    denoiser: Denoiser,
    latents: Tensor,
    tau_min: float,
    tolerance: float,
    vp: LinearVP,
    tau_max: float = 1.0,
    **options: Any,
) -> Sample:
    return rk45(
        denoiser,
        latents,
        tau_max=tau_max,
        tau_min=tau_min,
        rtol=tolerance,
        atol=tolerance,
        vp=vp,
        shared_step=True,
        **options,
    )


def soft_truncation_time(config: dict[str, Any], vp: LinearVP) -> TimeMap:
    """The time input of the networks: tau or, with the unbounded parametrisation, nearly the log of sigma,
    scaled to [0, 1]; times 999.
    """
    training = config["full"]["training"]
    if not training["unbounded_parametrization"]:
        return lambda sigma: TIME_SCALE * tau_from_sigma(sigma, vp)

    def almost_log(sigma: Tensor) -> Tensor:
        total = torch.log1p(sigma.square())
        return (training["stabilizing_constant"] - torch.expm1(-total)).log() + total

    ends = torch.tensor([sigma_from_tau(1e-5, vp), sigma_from_tau(1.0, vp)], dtype=torch.float64)
    low, high = almost_log(ends).tolist()
    return lambda sigma: TIME_SCALE * (almost_log(sigma) - low) / (high - low)


class LastState:
    """A denoiser that remembers the state of its last call, in the solver's scaling."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.y = denoiser, torch.empty(0)

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        self.y = x / per_sample((1 + sigma**2).sqrt(), x)
        return self.denoiser(x, sigma, class_labels)


@pytest.mark.parametrize("case", cases(is_soft_truncation))
def test_the_ode_of_soft_truncation_is_the_published_one(case: Case) -> None:
    """Compare every tolerance, and the last denoising if the case has it; extra cases only at their loosest
    tolerance.
    """
    config, arrays, weights = load(case)
    data, model = config["full"]["data"], config["full"]["model"]
    options: dict[str, Any] = {key: model[key] for key in NETWORK_OPTIONS if key in model}
    options |= {"num_scales": model["num_scales"], "centered": data["centered"]}
    options |= {"embedding_dim": model["embedding_dim"]} if model["lsgm"] else {}
    network = NCSNppModule(image_size=data["image_size"], num_channels=data["num_channels"], **options)
    load_into(network, weights["net"], source="net")
    network.eval().requires_grad_(False)
    vp = LinearVP(model["beta_min"], model["beta_max"])
    denoiser = VPDenoiser(lambda y, time, labels: (network(y, time), None), soft_truncation_time(config, vp))

    for tolerance in config["tolerances"] if case.scope == "core" else [max(config["tolerances"])]:
        of_max = 2e-3 if tolerance >= 1e-3 else 5e-3
        denoised = arrays.get(f"out_x_denoised_tol{tolerance}")
        recorder = LastState(denoiser)
        # The original takes its last step from the time to which it trained, whatever the one it solved to.
        last = config["full"]["training"]["truncation_time"]
        sample = solve(
            recorder,
            arrays["in_x_T"],
            config["eps"],
            tolerance,
            vp,
            config["T"],
            denoise_last=denoised is not None,
            denoise_tau=last,
        )
        nfe, x, expected = sample.nfe, sample.x, arrays[f"out_x_tol{tolerance}"]
        if denoised is not None:
            nfe, x = nfe - 1, recorder.y
            # The published one has beta * tau for B(tau).
            step = last * beta(last, vp) / integrated_beta(last, vp) * (sample.x - x)
            close(case, f"out_x_denoised_tol{tolerance}", x + step, denoised, of_max=of_max)
            # The step itself, which is smaller than the tolerance of the solution. The published standard
            # deviation there is the root of 1 - exp(-B) in float32, which divides the prediction.
            lost = 3 * 2**-24 / float(integrated_beta(last, vp))
            published = denoised - expected
            bound = (0.1 + lost) * float(published.abs().max()) + 2**-22 * float(denoised.abs().max())
            assert float((step - published).abs().max()) < bound
        close(case, f"out_x_tol{tolerance}", x, expected, of_max=of_max)
        image = (x + 1) / 2 if data["centered"] else x
        close(case, f"out_x01_tol{tolerance}", image, arrays[f"out_x01_tol{tolerance}"], of_max=of_max)
        assert nfe == pytest.approx(int(arrays[f"out_nfe_tol{tolerance}"]), rel=0.15)


def lsgm_denoiser(epsilon: Callable[[Tensor, Tensor, Tensor], Tensor], vp: LinearVP) -> Denoiser:
    """LSGM's denoiser of epsilon(y, tau, variance), with the published rounding.

    The published variance is 1 - exp(-B) in float32, 10 % off at tau = 1e-6, and the slope is divided by its
    root. What a solver with the tolerance 1e-3 does there depends on it: exact variances move its solutions
    by 9e-3 of the largest value, as far as it is from the exact solution. At 1e-5 both agree with the
    published one.
    """

    def predictor(y: Tensor, tau: Tensor, class_labels: Tensor | None) -> tuple[Tensor, None]:
        published, exact = 1 - torch.exp(-integrated_beta(tau, vp)), mean_std(tau, vp)[1].square()
        return epsilon(y, tau, published) * per_sample((exact / published).sqrt(), y), None

    return VPDenoiser(predictor, lambda sigma: tau_from_sigma(sigma, vp))


def toy_prior(dae: dict[str, Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """epsilon(y, time, variance) of the small network in the prior's place, with its mixed prediction."""

    def epsilon(y: Tensor, tau: Tensor, variance: Tensor) -> Tensor:
        time = F.linear(tau[:, None], dae["t1.weight"], dae["t1.bias"])[:, :, None, None]
        hidden = (F.conv2d(y, dae["conv1.weight"], dae["conv1.bias"], padding=1) + time).tanh()
        share = dae["mixing_logit"].sigmoid()
        predicted = F.conv2d(hidden, dae["conv2.weight"], dae["conv2.bias"], padding=1)
        return (1 - share) * per_sample(variance.sqrt(), y) * y + share * predicted

    return epsilon


@pytest.mark.parametrize("case", cases(is_toy_prior))
def test_the_ode_of_lsgm_is_the_published_one(case: Case) -> None:
    config, arrays, weights = load(case)
    epsilon, vp = toy_prior(weights["dae"]), lsgm_vp(config)
    for tolerance in config["tolerances"]:
        sample = solve(
            lsgm_denoiser(epsilon, vp), config["temp"] * arrays["in_noise"], config["ode_eps"], tolerance, vp
        )
        close(
            case,
            f"out_x_tol{tolerance}",
            sample.x,
            arrays[f"out_x_tol{tolerance}"],
            of_max=1e-4 if tolerance <= 1e-5 else 1e-2,
        )
        assert sample.nfe == pytest.approx(int(arrays[f"out_nfe_tol{tolerance}"]), abs=12)


@pytest.mark.parametrize("case", cases(is_geometric_toy_prior))
def test_the_geometric_ode_of_lsgm_has_the_same_solution_in_linear_vp_time(case: Case) -> None:
    """The geometric ODE preserves variance too and differs only in its time, hence in its steps: the number
    of evaluations is not compared.
    """
    config, arrays, weights = load(case)
    low, ratio = config["sigma2_min"], config["sigma2_max"] / config["sigma2_min"]
    epsilon = toy_prior(weights["dae"])

    def variance(time: Tensor) -> Tensor:
        return low * torch.expm1(math.log(ratio) * time)

    def time(sigma: Tensor) -> Tensor:
        return torch.log1p(sigma.square() / (1 + sigma.square()) / low) / math.log(ratio)

    denoiser = VPDenoiser(lambda y, time, labels: (epsilon(y, time, variance(time)), None), time)
    variances = [float(variance(torch.tensor(end, dtype=torch.float64))) for end in (config["ode_eps"], 1.0)]
    tau_min, tau_max = (tau_from_sigma(math.sqrt(value / (1 - value))) for value in variances)
    for tolerance in config["tolerances"]:
        sample = solve(denoiser, config["temp"] * arrays["in_noise"], tau_min, tolerance, LinearVP(), tau_max)
        close(
            case,
            f"out_x_tol{tolerance}",
            sample.x,
            arrays[f"out_x_tol{tolerance}"],
            of_max=1e-4 if tolerance <= 1e-5 else 1e-2,
        )


@pytest.mark.parametrize("case", cases(is_end_to_end))
def test_lsgm_from_noise_to_images_is_the_published_one(case: Case) -> None:
    config, arrays, weights = load(case)
    prior = prior_from(config["dae"], config["num_input_channels"])
    load_into(prior, weights["dae"], source="dae")
    vae = vae_from(config["vae"])
    load_into(vae, weights["vae"], source="vae")
    for network in (prior, vae):
        network.eval().requires_grad_(False)
    vp = lsgm_vp(config["sde"])
    for tolerance in config["tolerances"]:
        sample = solve(
            lsgm_denoiser(prior.epsilon, vp),
            config["temp"] * arrays["in_noise"],
            config["ode_eps"],
            tolerance,
            vp,
        )
        close(case, f"out_eps_tol{tolerance}", sample.x, arrays[f"out_eps_tol{tolerance}"], of_max=5e-3)
        close(
            case,
            f"out_image_tol{tolerance}",
            vae.decode(sample.x.float()),
            arrays[f"out_image_tol{tolerance}"],
            atol=3e-3,
        )
        assert sample.nfe == pytest.approx(float(arrays[f"out_nfe_tol{tolerance}"]), rel=0.15)
