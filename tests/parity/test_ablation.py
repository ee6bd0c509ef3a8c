"""The ablation sampler against the numbers of the reference implementation, driven by each case's config."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity.goldens import Case, cases, close, load
from torch import Tensor

from dgflow.diffusion.ablation import ablation, ablation_sigmas, default_range
from dgflow.diffusion.times import per_sample
from dgflow.networks.edm import preconditioners as edm
from dgflow.networks.edm.dhariwal import DhariwalUNetModule
from dgflow.networks.edm.song import SongUNetModule
from dgflow.weights.tensors import load_into

LEVELS = {"rho": float, "epsilon_s": float, "C_1": float, "C_2": float, "M": int}
CHURN = ("S_churn", "S_min", "S_max", "S_noise")


def is_ablation(case: Case) -> bool:
    return "generate.py: ablation_sampler" in case.reference and "discretization" in case.config.get(
        "sampler", {}
    )


CLAIMS = [is_ablation]


class Recorder:
    """A denoiser that remembers the states and noise levels of its calls."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser = denoiser
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        self.calls.append((x, sigma))
        return self.denoiser(x, sigma, class_labels)


def network(config: dict[str, Any], weights: dict[str, Tensor]) -> Any:
    options = dict(config["net"])
    if options.pop("model_type") == "SongUNet":
        net = SongUNetModule(**options)
    else:
        channels = options["img_channels"]
        net = DhariwalUNetModule(
            **options, out_channels=2 * channels if config["precond"] == "iDDPMPrecond" else channels
        )
    denoiser = getattr(edm, config["precond"])(net)
    load_into(denoiser, weights, source="net")
    return denoiser.eval().requires_grad_(False)


@pytest.mark.parametrize("case", cases(is_ablation))
def test_the_ablation_sampler_is_the_published_one(case: Case) -> None:
    """Its result, the state at the beginning of every step, and the noise level of every evaluation."""
    config, arrays, weights = load(case)
    options = dict(config["sampler"])
    net = network(config, weights["net"])
    discretization, vp_scaling = options["discretization"], options.get("scaling") == "vp"
    low, high = default_range(discretization, float(options.get("epsilon_s", 1e-3)))
    low = max(low if options.get("sigma_min") is None else options["sigma_min"], net.sigma_min)
    high = min(high if options.get("sigma_max") is None else options["sigma_max"], net.sigma_max)
    table: dict[str, Any] = {key: kind(options[key]) for key, kind in LEVELS.items() if key in options}
    sigmas = ablation_sigmas(options["num_steps"], discretization, low, high, **table)
    choices: dict[str, Any] = {
        key: options[key] for key in ("schedule", "scaling", "solver", "alpha", "epsilon_s") if key in options
    }
    churn: dict[str, Any] = {key: float(options[key]) for key in CHURN if key in options}
    recorder, noise = Recorder(net), arrays["in_noise"].double()
    sample = ablation(
        recorder,
        arrays["in_latents"],
        sigmas,
        **choices,
        **churn,
        vp_range=(low, high),
        round_sigma=net.round_sigma,
        class_labels=arrays.get("in_labels"),
        churn_noise=noise.__getitem__,
    )
    levels = torch.stack([sigma for _, sigma in recorder.calls])
    # The table of an iDDPM network is float32.
    rtol = 1e-6 if config["precond"] == "iDDPMPrecond" or discretization == "iddpm" else 1e-12
    assert sample.nfe == len(levels)
    for sample_levels in levels.unbind(1):
        close(case, "out_net_sigmas", sample_levels, arrays["out_net_sigmas"], rtol=rtol)

    first_order = recorder.calls[:: 2 if options.get("solver", "heun") == "heun" else 1]
    for step, (x_hat, sigma_hat) in enumerate(first_order):
        # The network sees the unscaled state with its churn noise: that is taken off again and the scale put
        # back.
        sigma = net.round_sigma(torch.tensor(sigmas[step], dtype=torch.float64))
        added = (sigma_hat**2 - sigma**2).clamp_min(0).sqrt() * churn.get("S_noise", 1.0)
        x = x_hat - per_sample(added, x_hat) * noise[step]
        x = x / (1 + sigma**2).sqrt() if vp_scaling else x
        close(case, "out_x_steps", x, arrays["out_x_steps"][step], of_max=1e-4)
    assert len(first_order) == options["num_steps"] == len(arrays["out_x_steps"])
    close(case, "out_x_final", sample.x, arrays["out_x_final"], of_max=1e-4)
