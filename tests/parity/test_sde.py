"""Diffusions and training times of Soft Truncation and LSGM against the numbers of their reference
implementations."""

from __future__ import annotations

import math
import re

import pytest
import torch
from diffusion.published import importance_range_published, importance_tau_published
from diffusion.sde import GeometricVE, Weighting, lsgm_times, soft_truncation_tau, vp_step
from parity.goldens import Case, cases, close, load
from torch import Tensor

from dgflow.diffusion.times import (
    LinearVP,
    beta,
    integrated_beta,
    mean_std,
    per_sample,
    tau_from_integrated_beta,
    uniform_tau,
)

WEIGHTINGS: dict[str, Weighting] = {
    "ll": "likelihood",
    "drop_all": "unweighted",
    "drop_sigma2t": "reweighted",
    "rescale": "rescaled",
}
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}


def is_soft_truncation(case: Case) -> bool:
    return "sde_lib.py: VPSDE, VESDE" in case.reference and {"vp", "ve"} <= case.config.keys()


def is_lsgm(case: Case) -> bool:
    return "make_diffusion" in case.reference and case.config.get("sde_type") == "vpsde"


CLAIMS = [is_soft_truncation, is_lsgm]


def published_variance(tau: Tensor, vp: LinearVP) -> Tensor:
    """1 - exp(-B) in float32, as published; it loses all digits near 0, where times.mean_std does not."""
    return 1 - torch.exp(-integrated_beta(tau.float(), vp))


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
        # Where the published rounding is within the tolerance, ours has to be as well; elsewhere the rounding
        # is what is compared.
        "vp_std": torch.where(std < 0.2, published_variance(tau, vp).sqrt(), std),
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
    torch.testing.assert_close(published_variance(tau, vp).sqrt(), std, rtol=2e-2, atol=0)
    for key, value in actual.items():
        # The published step's drift is a difference of two states, sqrt(1 - beta_i / N) x - x in float32.
        atol = 2**-23 * float(x.abs().max()) if key == "vp_disc_f" else 0.0
        close(case, f"out_{key}", value, arrays[f"out_{key}"], rtol=1e-5, atol=atol)
    # A difference of two float32 squares that are 1.7 % apart (2 log(sigma_max / sigma_min) / N): rounding is
    # multiplied by 60.
    close(case, "out_ve_disc_G", ve.step_noise(tau, config["ve"]["N"]), arrays["out_ve_disc_G"], rtol=5e-5)


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
            close(case, key, drawn, expected, rtol=1e-5, atol=1e-6)
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
    component = per_sample(published_variance(tau, vp).sqrt(), x) * x
    actual = {
        "f": -0.5 * beta(tau, vp),
        "g2": beta(tau, vp),
        "var": mean_std(tau, vp)[1].square(),
        "e2int_f": mean_std(tau, vp)[0] / math.sqrt(1 - vp.variance_0),
        "mixing_component": component,
        "mixed_prediction": (1 - share) * component + share * arrays["in_param"],
        "unmixed_prediction": arrays["in_param"],
    }
    for key, value in actual.items():
        close(case, f"out_{key}", value, arrays[f"out_{key}"], **FLOAT32)
    # Of the published variance, which has lost digits near 0.
    inverse = tau_from_integrated_beta(-torch.log1p(-arrays["out_var"].double()), vp)
    near_0 = tau < 1e-3
    close(case, "out_inv_var", inverse[~near_0], arrays["out_inv_var"][~near_0], **FLOAT32)
    close(case, "out_inv_var", inverse[near_0], arrays["out_inv_var"][near_0], rtol=1e-2)


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
        close(case, f"{prefix}t", times.tau, arrays[f"{prefix}t"], **FLOAT32)
        close(case, f"{prefix}var_t", std.square(), arrays[f"{prefix}var_t"], **FLOAT32)
        close(case, f"{prefix}m_t", mean / math.sqrt(1 - vp.variance_0), arrays[f"{prefix}m_t"], **FLOAT32)
        close(case, f"{prefix}g2_t", beta(times.tau, vp), arrays[f"{prefix}g2_t"], **FLOAT32)
        weight, likelihood_weight = factor * times.weight, factor * times.likelihood_weight
        expected = arrays[f"{prefix}obj_weight_t"].expand_as(weight)
        if weighting == "rescaled":
            # Divided by the published 1 - var, whose float32 rounding is 6e-8: the errors of the weight are
            # 6e-8 / (1 - var)^2.
            weight, expected = weight * mean**4, expected * mean**4
        close(case, f"{prefix}obj_weight_t", weight, expected, **FLOAT32)
        close(
            case, f"{prefix}obj_weight_t_ll", likelihood_weight, arrays[f"{prefix}obj_weight_t_ll"], **FLOAT32
        )
        compared |= {
            f"{prefix}{name}" for name in ("t", "var_t", "m_t", "g2_t", "obj_weight_t", "obj_weight_t_ll")
        }
    assert compared == {key for key in arrays if key.startswith("out_iw_")}
