"""Likelihood by the probability-flow ODE against score_sde's, for its three processes in their own times,
with the exact scores of a Gaussian mixture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from parity.goldens import Case, cases, close, load
from parity.toys import ToyMixture
from scipy.integrate import solve_ivp
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.likelihood import LogLikelihood, bits_per_dimension, flow_slopes, log_likelihood


@dataclass(frozen=True)
class Process:
    """y = mean(t) (x0 + sigma(t) z) for t in [0, 1], each with the rate at which its logarithm changes."""

    mean: Callable[[float], float]
    mean_rate: Callable[[float], float]
    sigma: Callable[[float], float]
    sigma_rate: Callable[[float], float]
    prior: Callable[[float], float]
    """(sigma(1)) -> the standard deviation of y at t = 1."""


def process(config: Mapping) -> Process:
    kwargs = config["kwargs"]
    if config["sde"] == "VE":
        low, growth = kwargs["sigma_min"], math.log(kwargs["sigma_max"] / kwargs["sigma_min"])
        return Process(
            lambda t: 1.0,
            lambda t: 0.0,
            lambda t: low * math.exp(growth * t),
            lambda t: growth,
            lambda top: top,
        )
    first, slope = kwargs["beta_min"], kwargs["beta_max"] - kwargs["beta_min"]

    def total(t: float) -> float:
        return t * (first + 0.5 * slope * t)

    def rate(t: float) -> float:
        return first + slope * t

    # sigma^2 = exp(B) - 1, and the square root of it all, 2 sinh(B / 2), of the sub-VP process.
    sigma = {
        "VP": lambda t: math.sqrt(math.expm1(total(t))),
        "subVP": lambda t: 2 * math.sinh(0.5 * total(t)),
    }
    growth = {
        "VP": lambda t: 0.5 * rate(t) / -math.expm1(-total(t)),
        "subVP": lambda t: 0.5 * rate(t) / math.tanh(0.5 * total(t)),
    }
    return Process(
        lambda t: math.exp(-0.5 * total(t)),
        lambda t: -0.5 * rate(t),
        sigma[config["sde"]],
        growth[config["sde"]],
        lambda top: 1.0,
    )


def is_likelihood(case: Case) -> bool:
    return "likelihood.py" in case.reference and "sde" in case.config


CLAIMS = [is_likelihood]
CASES = pytest.mark.parametrize("case", cases(is_likelihood, "workbench"))


def slopes(toy: ToyMixture, of: Process, t: float, y: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """(dy/dt, d log p / dt) in the time of the process."""
    at = {
        name: torch.full((len(y),), getattr(of, name)(t)).double()
        for name in ("mean", "mean_rate", "sigma_rate")
    }
    sigma = torch.full((len(y),), of.sigma(t)).double()
    return flow_slopes(lambda x: toy(x, sigma), y.double() / of.mean(t), probe.double(), **at)


@CASES
def test_the_slopes_of_every_process_are_the_published_ones(case: Case) -> None:
    config, arrays, _ = load(case)
    toy, of = ToyMixture.of(arrays), process(config)
    found = [
        slopes(toy, of, float(t), y, arrays["in_epsilon"])
        for t, y in zip(arrays["in_rhs_t"], arrays["in_rhs_x"], strict=True)
    ]
    for key, values in zip(("rhs_drift", "rhs_logp"), zip(*found, strict=True), strict=True):
        close(case, key, torch.stack(values), arrays[f"out_{key}"], of_max=2e-5)


def solved(config: Mapping, arrays: Mapping[str, Tensor], y: Tensor, probe: Tensor) -> LogLikelihood:
    """The log-density of y at t = eps, in nats, and what goes with it."""
    of = process(config)
    mean, top = of.mean(config["eps"]), of.sigma(1.0)
    found = log_likelihood(
        ToyMixture.of(arrays),
        y / mean,
        sigma_min=of.sigma(config["eps"]),
        sigma_max=top,
        probe=probe,
        prior_std=of.prior(top) / of.mean(1.0),
    )
    return found._replace(nats=found.nats - y[0].numel() * math.log(mean))


@CASES
def test_bits_per_dimension_and_latents_are_the_published_ones(case: Case) -> None:
    """Our steps are in log(sigma) and each image's own; theirs are in t and shared."""
    config, arrays, _ = load(case)
    of, y = process(config), arrays["in_data"].double()
    found = solved(config, arrays, y, arrays["in_epsilon"])
    std = of.prior(of.sigma(1.0))
    log_prior = -0.5 * (found.latents.square() + math.log(2 * math.pi * std**2)).flatten(1).sum(1)
    unit = {"(x+1)/2 (centered data)": 128.0}[config["inverse_scaler"]]
    bits = bits_per_dimension(found.nats, y[0].numel(), unit=unit)
    close(case, "bpd", bits, arrays["out_bpd"], atol=2e-3)
    close(case, "z", found.latents * std, arrays["out_z"], of_max=2e-3)
    close(case, "prior_logp", log_prior, arrays["out_prior_logp"], of_max=2e-3)
    close(case, "delta_logp", found.nats - log_prior, arrays["out_delta_logp"], of_max=2e-3)


@CASES
def test_the_mean_over_probes_is_the_log_density_of_the_mixture(case: Case) -> None:
    """Once the Gaussian at t = 1 is replaced by the mixture with that much noise."""
    config, arrays, _ = load(case)
    of, toy, count = process(config), ToyMixture.of(arrays), 256
    y = arrays["in_data"].double().repeat_interleave(count, 0)
    uniforms = noise.uniform(6, torch.arange(len(y)), y.shape[1:], step=0)
    found = solved(config, arrays, y, torch.where(uniforms < 0.5, -1.0, 1.0))
    top, x = of.sigma(1.0), found.latents * (of.prior(of.sigma(1.0)) / of.mean(1.0))
    started = -0.5 * found.latents.square().flatten(1).sum(1)
    started -= y[0].numel() * math.log(math.sqrt(2 * math.pi) * of.prior(top) / of.mean(1.0))
    values = (found.nats - started + toy.log_density(x, y.new_full((len(y),), top))).reshape(-1, count)
    error = values.std(1) / math.sqrt(count)
    assert bool(((values.mean(1) - arrays["out_exact_logp"]).abs() < 4 * error).all())


@CASES
def test_scipy_takes_as_many_evaluations_of_the_slopes_as_published(case: Case) -> None:
    config, arrays, _ = load(case)
    toy, of, y = ToyMixture.of(arrays), process(config), arrays["in_data"]

    def slope(t: float, state: np.ndarray) -> np.ndarray:
        values = slopes(
            toy, of, t, torch.from_numpy(state[: y.numel()]).reshape(y.shape), arrays["in_epsilon"]
        )
        return torch.cat([value.flatten() for value in values]).numpy()

    start = np.concatenate([y.double().flatten().numpy(), np.zeros(len(y))])
    tolerances = {"rtol": config["rtol"], "atol": config["atol"]}
    solution = solve_ivp(slope, (config["eps"], 1.0), start, method=config["method"], **tolerances)
    assert abs(solution.nfev - int(arrays["out_nfe"])) <= 24
