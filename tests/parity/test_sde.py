"""Diffusions and training times of Soft Truncation and LSGM against the numbers of their reference
implementations."""

from __future__ import annotations

import math
import re

import pytest
import torch
from diffusion.published import importance_range_published, importance_tau_published
from diffusion.sde import GeometricVE, LSGMTimes, Weighting, lsgm_times, soft_truncation_tau, vp_step
from parity.goldens import Case, cases, close, load
from torch import Tensor

from dgflow.diffusion.times import LinearVP, beta, mean_std, per_sample, tau_from_integrated_beta, uniform_tau

WEIGHTINGS: dict[str, Weighting] = {
    "ll": "likelihood",
    "drop_all": "unweighted",
    "drop_sigma2t": "reweighted",
    "rescale": "rescaled",
}
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}
U = 2.0**-24
"""Relative error of one float32 operation, and absolute error of a number just below 1."""
VARIANCE = 3 * U
"""Absolute error of the published 1 - (1 - sigma2_0) exp(-B) in float32: of exp, the product, the
difference."""


def is_soft_truncation(case: Case) -> bool:
    return "sde_lib.py: VPSDE, VESDE" in case.reference and {"vp", "ve"} <= case.config.keys()


def is_lsgm(case: Case) -> bool:
    return "make_diffusion" in case.reference and case.config.get("sde_type") == "vpsde"


CLAIMS = [is_soft_truncation, is_lsgm]


def tau_rounding(kept_error: Tensor, tau: Tensor, vp: LinearVP) -> Tensor:
    """Error of the published time for a variance, from that of 1 - variance: B = -log((1 - variance) /
    (1 - sigma2_0)) and its root, (sqrt(beta_0^2 + 2 slope B) - beta_0) / slope, in float32."""
    kept = 1 - mean_std(tau, vp)[1].square()
    rate = beta(tau, vp)
    return (kept_error / kept + 3 * U) / rate + 4 * U * rate / vp.slope


def lsgm_rounding(
    times: LSGMTimes, rho: Tensor, weighting: Weighting, importance: bool, tau_min: float, vp: LinearVP
) -> dict[str, Tensor]:
    """Absolute errors of the published numbers due to float32, by output name.

    First-order propagation of the errors of the variance (`VARIANCE`) and of the time through the formulas
    of `lsgm_times`.
    """
    tau, rho = times.tau.double(), rho.double()
    rate, (mean, std) = beta(tau, vp), mean_std(tau, vp)
    variance, kept = std.square(), 1 - std.square()
    first, last = (float(mean_std(end, vp)[1]) ** 2 for end in (tau_min, 1.0))
    of_constant, of_tau, of_variance = 0.0, torch.full_like(tau, 2 * U), torch.full_like(tau, VARIANCE)
    if importance and weighting == "unweighted":
        # erfinv of a number in [0, 1] with some units of error: its slope is exp(w^2) sqrt(pi) / 2.
        width, offset = math.sqrt(0.5 * vp.slope), vp.beta_0 / vp.slope
        low, high = (math.erf(width * (end + offset)) for end in (tau_min, 1.0))
        slope = (width * (tau + offset)).square().exp() * math.sqrt(math.pi) / 2
        of_tau = (4 * U * slope + 4 * U * width * (tau + offset)) / width
        of_variance = VARIANCE + rate * kept * of_tau
        of_constant = 4 * U / (high - low)
    elif importance:
        if weighting == "likelihood":
            of_variance = variance * (VARIANCE / first * (1 - rho) + 2 * U * (4 - math.log(first)))
            of_constant = (VARIANCE / first + 8 * U) / math.log(last / first)
        else:
            of_constant = 2 * VARIANCE / (last - first)
        of_tau = tau_rounding(of_variance + U, tau, vp)
    of_weight = {
        "likelihood": of_constant + ((of_variance + U) / kept if importance else of_variance / variance),
        "unweighted": of_constant + ((of_variance + U) / kept if importance else torch.zeros_like(tau)),
        "reweighted": of_constant + ((of_variance + U) / kept if importance else vp.slope * of_tau / rate),
        "rescaled": (of_variance + U) / kept,
    }[weighting]
    of_likelihood = of_variance / variance
    if importance:
        of_likelihood = of_weight if weighting == "likelihood" else of_weight + of_likelihood
        of_likelihood = of_likelihood + (vp.slope * of_tau / rate if weighting == "unweighted" else 0.0)
    return {
        "t": of_tau,
        "var_t": of_variance,
        "m_t": mean / math.sqrt(1 - vp.variance_0) * (0.5 * rate * of_tau + 2 * U),
        "g2_t": vp.slope * of_tau,
        "obj_weight_t": times.weight * of_weight,
        "obj_weight_t_ll": times.likelihood_weight * of_likelihood,
    }


@pytest.mark.parametrize("case", cases(is_soft_truncation))
def test_soft_truncation_s_diffusions_are_the_published_ones(case: Case) -> None:
    config, arrays, _ = load(case)
    vp, ve = (
        LinearVP(config["vp"]["beta_min"], config["vp"]["beta_max"]),
        GeometricVE(config["ve"]["sigma_min"], config["ve"]["sigma_max"]),
    )
    tau, x = arrays["in_t"], arrays["in_x"]
    kept, noise = vp_step(tau, config["vp"]["N"], vp)
    std = mean_std(tau, vp)[1]
    actual = {
        "vp_mean": per_sample(mean_std(tau, vp)[0], x) * x,
        "vp_std": std,
        "vp_drift": -0.5 * per_sample(beta(tau, vp), x) * x,
        "vp_diffusion": beta(tau, vp).sqrt(),
        "vp_disc_f": per_sample(kept - 1, x) * x,
        "vp_disc_G": noise,
        "ve_mean": x,
        "ve_std": ve.sigma(tau),
        "ve_drift": torch.zeros_like(x),
        "ve_diffusion": ve.diffusion(tau),
        "ve_disc_f": torch.zeros_like(x),
    }
    # The published step's drift is a difference of two states, sqrt(1 - beta_i / N) x - x in float32.
    atols = {"vp_disc_f": 2**-23 * float(x.abs().max()), "vp_std": VARIANCE / (2 * std.double())}
    for key, value in actual.items():
        close(case, f"out_{key}", value, arrays[f"out_{key}"], rtol=1e-5, atol=atols.get(key, 0.0))
    # A difference of two float32 squares that are `apart` (0.017 for 1,000 levels from 0.01 to 50): their
    # levels are exponentials of logarithms, |log| + 2 units off each.
    steps, ends = config["ve"]["N"], (ve.sigma_min, ve.sigma_max)
    apart = -math.expm1(-2 * math.log(ve.sigma_max / ve.sigma_min) / (steps - 1))
    units = 2 * (max(abs(math.log(end)) for end in ends) + 2)
    rtol = max(5e-5, units * U / apart)
    close(case, "out_ve_disc_G", ve.step_noise(tau, steps), arrays["out_ve_disc_G"], rtol=rtol)


@pytest.mark.parametrize("case", cases(is_soft_truncation))
def test_soft_truncation_s_times_are_the_published_ones(case: Case) -> None:
    config, arrays, _ = load(case)
    vp, ve = (
        LinearVP(config["vp"]["beta_min"], config["vp"]["beta_max"]),
        GeometricVE(config["ve"]["sigma_min"], config["ve"]["sigma_max"]),
    )
    for key, expected in arrays.items():
        found = re.fullmatch(r"out_(vp|ve)_(time_|Z_|tmin_k)(.*)", key)
        if found is None:
            continue
        diffusion, kind, number = found[1], found[2], float(found[3])
        if kind == "tmin_k":
            close(
                case,
                key,
                soft_truncation_tau(arrays["in_u_tmin"], number, config["truncation_time"]),
                expected,
                rtol=1e-10,
            )
        elif kind == "time_":
            # g^2 / sigma^2 is constant for VE, so that its importance times are uniform.
            drawn = (
                importance_tau_published(arrays["in_u"], number, vp)
                if diffusion == "vp"
                else uniform_tau(arrays["in_u"], number)
            )
            # Of vp: log(1 + exp(...)), whose sum another processor may round to the next float32 number.
            atol = 1e-6 + (2**-23 / beta(expected, vp) if diffusion == "vp" else 0.0)
            close(case, key, drawn, expected, rtol=1e-5, atol=atol)
        elif diffusion == "vp":
            low, high = importance_range_published(number, vp)
            close(case, key, high - low, expected, rtol=1e-5)
        else:
            rate = (ve.diffusion(torch.ones(1)) / ve.sigma(torch.ones(1))) ** 2
            close(case, key, (rate * (1 - number))[0], expected, rtol=1e-5)


@pytest.mark.parametrize("case", cases(is_lsgm))
def test_lsgm_s_diffusion_is_the_published_one(case: Case) -> None:
    config, arrays, _ = load(case)
    vp = LinearVP(config["beta_start"], config["beta_end"], config["sigma2_0"])
    tau, x = arrays["in_t"], arrays["in_x"]
    share = arrays["in_mixing_logit"].sigmoid()
    mean, std = mean_std(tau.double(), vp)
    component = per_sample(std, x) * x
    lost = per_sample(VARIANCE / (2 * std), x) * x.abs()  # of std, where the variance is near 0
    actual = {
        "f": -0.5 * beta(tau, vp),
        "g2": beta(tau, vp),
        "var": std.square(),
        "e2int_f": mean / math.sqrt(1 - vp.variance_0),
        "mixing_component": component,
        "mixed_prediction": (1 - share) * component + share * arrays["in_param"],
        "unmixed_prediction": arrays["in_param"],
    }
    for key, value in actual.items():
        atol = FLOAT32["atol"] + (lost if key.startswith("mix") else 0.0)
        close(case, f"out_{key}", value, arrays[f"out_{key}"], rtol=FLOAT32["rtol"], atol=atol)
    # Of the published variance, which has lost digits near 0.
    inverse = tau_from_integrated_beta(-torch.log1p(-arrays["out_var"].double()), vp)
    atol = FLOAT32["atol"] + tau_rounding(torch.tensor(U), tau.double(), vp)
    close(case, "out_inv_var", inverse, arrays["out_inv_var"], rtol=FLOAT32["rtol"], atol=atol)


@pytest.mark.parametrize("case", cases(is_lsgm))
def test_lsgm_s_training_times_and_weights_are_the_published_ones(case: Case) -> None:
    config, arrays, _ = load(case)
    vp, tau_min = LinearVP(config["beta_start"], config["beta_end"], config["sigma2_0"]), config["time_eps"]
    # The published integral of exp(-B) has exp(beta_0 / (2 (beta_1 - beta_0))) where the Gaussian's completed
    # square gives beta_0^2, a constant factor on the weights (1.002 at the published betas).
    published_factor = math.exp(0.5 * vp.beta_0 * (1 - vp.beta_0) / vp.slope)
    compared = set()
    for key in arrays:
        found = re.fullmatch(r"out_iw_(.*)_(iw|uniform)_t", key)
        if found is None:
            continue
        prefix, weighting = key.removesuffix("t"), WEIGHTINGS[found[1]]
        importance = found[2] == "iw" and weighting != "rescaled"
        times = lsgm_times(arrays["in_rho"], weighting, importance=importance, tau_min=tau_min, vp=vp)
        mean, std = mean_std(times.tau, vp)
        factor = published_factor if importance and weighting == "unweighted" else 1.0
        actual = {
            "t": times.tau,
            "var_t": std.square(),
            "m_t": mean / math.sqrt(1 - vp.variance_0),
            "g2_t": beta(times.tau, vp),
            "obj_weight_t": factor * times.weight,
            "obj_weight_t_ll": factor * times.likelihood_weight,
        }
        rounding = lsgm_rounding(times, arrays["in_rho"], weighting, importance, tau_min, vp)
        for name, value in actual.items():
            expected, atol = arrays[f"{prefix}{name}"].expand_as(value), FLOAT32["atol"] + rounding[name]
            close(case, f"{prefix}{name}", value, expected, rtol=FLOAT32["rtol"], atol=atol)
        compared |= {f"{prefix}{name}" for name in actual}
    assert compared == {key for key in arrays if key.startswith("out_iw_")}
