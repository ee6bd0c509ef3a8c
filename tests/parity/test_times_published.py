"""Time maps and training times against the numbers of the reference implementations, driven by each case's
config."""

from __future__ import annotations

import math
import re

import pytest
import torch
from diffusion.published import importance_range_published, importance_tau_published
from parity.goldens import Case, cases, close, load
from torch import Tensor

from dgflow.diffusion import times
from dgflow.diffusion.losses import perturb


def is_time(case: Case) -> bool:
    return "vpsde" in case.reference and "sigma_dtype" in case.config


CLAIMS = [is_time]

OF_TAU = ("marg_mean", "marg_std", "integral_beta", "t_cos", "antiderivative")
"""Functions of linear-VP time; the others are of a noise level."""


def rounding(key: str, tau: Tensor, vp: times.LinearVP, s: float, eps: float) -> Tensor:
    """The error of an output's published formula if 1, a variance near 0 or a cosine near 1 is rounded to
    `eps`.
    """
    std = times.mean_std(tau, vp)[1]
    if key in ("tau", "tr_tau"):
        return eps / times.beta(tau, vp)
    if key.endswith("std"):
        return eps / (2 * std)
    if key.startswith("t_cos"):
        return torch.tensor(eps / math.sin(s / (1 + s) * math.pi / 2))
    return eps / std.square() if key == "antiderivative" else torch.tensor(0.0)


@pytest.mark.parametrize("case", cases(is_time))
def test_times_are_the_published_ones(case: Case) -> None:
    config, arrays, _ = load(case)
    vp, s = times.LinearVP(config["beta_0"], config["beta_1"]), config["s"]
    sigma, tau = arrays["in_sigma"], arrays["in_t"]
    actual = {
        "tau": times.tau_from_sigma(sigma, vp),
        "tr_tau": times.tau_from_sigma(sigma, vp),
        "tr_mean": times.mean_std(times.tau_from_sigma(sigma, vp), vp)[0],
        "tr_std": times.mean_std(times.tau_from_sigma(sigma, vp), vp)[1],
        "t_cos_of_tau": times.cosine_time(times.tau_from_sigma(sigma, vp), s, vp),
        "marg_mean": times.mean_std(tau, vp)[0],
        "marg_std": times.mean_std(tau, vp)[1],
        "integral_beta": times.integrated_beta(tau, vp),
        "t_cos": times.cosine_time(tau, s, vp),
        "antiderivative": 2 * times.sigma_from_tau(tau, vp).log(),
    }
    # Near 0 the published forms cancel (1 - exp(-B), log(1 + sigma^2), arccos) and ours do not: there,
    # float32 numbers are compared to the 1 % that the case states, and all to the rounding of 1 divided by
    # what is left after the cancellation.
    single, eps = sigma.dtype == torch.float32, torch.finfo(sigma.dtype).eps
    above, near_0 = (
        ({"rtol": 2e-6}, {"rtol": 1e-2, "atol": 1e-6})
        if single
        else ({"rtol": 1e-12}, {"rtol": 1e-11, "atol": 1e-13})
    )
    for key, value in actual.items():
        of_tau = key in OF_TAU
        level, time = (
            (times.sigma_from_tau(tau, vp), tau) if of_tau else (sigma, times.tau_from_sigma(sigma, vp))
        )
        lost = rounding(key, time, vp, s, eps).expand_as(time)
        for i in range(len(value)):
            tolerance = above if level[i] > 0.1 else near_0
            atol = max(tolerance.get("atol", 0.0), float(lost[i]))
            close(case, f"out_{key}", value[i], arrays[f"out_{key}"][i], rtol=tolerance["rtol"], atol=atol)


@pytest.mark.parametrize("case", cases(is_time))
def test_training_times_are_the_published_ones(case: Case) -> None:
    config, arrays, _ = load(case)
    u, vp = arrays["in_u"], times.LinearVP(config["beta_0"], config["beta_1"])
    for key, expected in arrays.items():
        kind, _, tau_min = key.partition("_tmin")
        if kind == "out_is_time":
            drawn = importance_tau_published(u, float(tau_min), vp)
            # log(1 + exp(...)), whose sum another processor may round to the next float32 number.
            atol = 1e-6 + 2**-23 / times.beta(expected, vp)
            close(case, key, drawn, expected, rtol=1e-5, atol=atol)
        elif kind == "out_unif_time":
            close(case, key, times.uniform_tau(u, float(tau_min)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", cases(is_time))
def test_the_constants_of_the_training_times_are_the_published_ones(case: Case) -> None:
    """Their names end with the smallest time: `out_is_Z_tmin1e-05`, or `out_Z_1e5` for 1e-5."""
    config, arrays, _ = load(case)
    compared = 0
    for key, expected in arrays.items():
        found = re.fullmatch(r"out_(is_Z_tmin|Z_|antiderivative_of_float_)(.+)", key)
        if found is not None:
            tau_min = float(found[2]) if found[1] == "is_Z_tmin" else float(found[2].replace("e", "e-"))
            low, high = importance_range_published(
                tau_min, times.LinearVP(config["beta_0"], config["beta_1"])
            )
            close(case, key, low if "antiderivative" in key else high - low, expected, rtol=2e-6)
            compared += 1
    assert compared == sum(array.ndim == 0 for array in arrays.values())


@pytest.mark.parametrize("case", cases(is_time))
def test_perturb_scales_like_the_published_marginals(case: Case) -> None:
    """Only marginals of the paper's linear VP, to which `perturb` refers; the others are compared above."""
    config, arrays, _ = load(case)
    tau = arrays["in_t"].double()
    images, noise = (
        torch.full((len(tau), 1, 2, 2), 0.5).double(),
        torch.full((len(tau), 1, 2, 2), -2.0).double(),
    )
    found = perturb(images, tau, noise)[:, 0, 1, 1]
    published = (
        times.LinearVP(config["beta_0"], config["beta_1"]) == times.LINEAR_VP
        and tau.dtype == arrays["in_t"].dtype
    )
    mean, std = (arrays["out_marg_mean"], arrays["out_marg_std"]) if published else times.mean_std(tau)
    torch.testing.assert_close(found, 0.5 * mean - 2.0 * std, rtol=1e-9, atol=0)
