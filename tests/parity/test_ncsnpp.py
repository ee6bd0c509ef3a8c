"""Soft Truncation's networks and LSGM's priors give the originals' numbers from their own weights, and have
their names in their order."""

import inspect
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from parity import goldens
from parity.goldens import Case
from parity.lsgm_arguments import prior_from
from torch import Tensor

from dgflow.diffusion.times import per_sample
from dgflow.networks.lsgm.prior import LSGMPriorModule
from dgflow.networks.ncsnpp.module import NCSNppModule
from dgflow.networks.ncsnpp.spec import TIME_SCALE
from dgflow.weights.tensors import load_into

Arrays = dict[str, Tensor]
Config = dict[str, Any]
TOLERANCE = {"rtol": 1e-4, "of_max": 1e-5}


def is_soft_truncation_network(case: Case) -> bool:
    """A network of Soft Truncation by itself, with its score."""
    return (
        "out_net_out" in case.entry["arrays"]
        and {"data", "model", "training"} <= case.config.get("full", {}).keys()
    )


def is_lsgm_prior(case: Case) -> bool:
    """A prior of LSGM by itself, with its mixed predictions."""
    return "out_net_out" in case.entry["arrays"] and "num_scales_dae" in case.config.get("args", {})


CLAIMS: list[Callable[[Case], bool]] = [is_soft_truncation_network, is_lsgm_prior]


def soft_truncation_network(config: Config) -> NCSNppModule:
    """From the sections `data` and `model` of the original's configuration."""
    data, model = config["data"], config["model"]
    fixed = {
        "resblock_type": "biggan",
        "skip_rescale": True,
        "conditional": True,
        "auxiliary_resblock": True,
        "attention": True,
    }
    assert all(model[name] == value for name, value in fixed.items()) and not model["fourier_feature"]
    assert model["fir_kernel"] == [1, 3, 3, 1]
    return NCSNppModule(
        image_size=data["image_size"],
        num_channels=data["num_channels"],
        centered=data["centered"],
        embedding_dim=model["embedding_dim"] if model["lsgm"] else None,
        **{
            name: value
            for name, value in model.items()
            if name in inspect.signature(NCSNppModule).parameters.keys() - {"embedding_dim"}
        },
    ).eval()


def vp_std(t: Tensor, model: Config) -> Tensor:
    """In float32 as in the original, whose rounding is 0.6 % at t = 1e-5."""
    log_mean = -0.25 * t**2 * (model["beta_max"] - model["beta_min"]) - 0.5 * t * model["beta_min"]
    return (1.0 - (2.0 * log_mean).exp()).sqrt()


def vp_labels(t: Tensor, config: Config) -> Tensor:
    """999 t, or with the unbounded parametrisation 999 times the share of log(std^2 / mean^2) (stabilised)
    since 1e-5, in float32."""
    if not config["training"]["unbounded_parametrization"]:
        return 999 * t
    low, high = config["model"]["beta_min"], config["model"]["beta_max"]

    def antiderivative(time: Tensor) -> Tensor:
        beta = time * (low + 0.5 * (high - low) * time)
        return (1 - torch.exp(-beta) + config["training"]["stabilizing_constant"]).log() + beta

    start, end = antiderivative(torch.tensor(1e-5)), antiderivative(torch.tensor(1.0))
    return 999 * ((antiderivative(t) - start) / (end - start))


def ve_std(t: Tensor, config: Config) -> Tensor:
    """Geometric from sigma_min to sigma_max in t, or in 1 / t (reciprocal) from the truncation time."""
    low, high = config["model"]["sigma_min"], config["model"]["sigma_max"]
    if config["training"]["sde"] == "vesde":
        return low * (high / low) ** t
    return high * (low / high) ** ((1 / t - 1) / (1 / config["training"]["truncation_time"] - 1))


def run_soft_truncation(config: Config, arrays: Arrays, weights: dict[str, dict[str, Tensor]]) -> Arrays:
    config = config["full"]
    network = soft_truncation_network(config)
    torch.testing.assert_close(
        network.sigmas, weights["net"]["sigmas"], rtol=1e-12, atol=0
    )  # before they are loaded
    load_into(network, weights["net"], source="net")
    x, t, image = arrays["in_x"], arrays["in_t"], arrays["in_img01"]
    centered = config["data"]["centered"]
    scaled = 2 * image - 1 if centered else image
    outputs = {"out_scaled": scaled, "out_unscaled": (scaled + 1) / 2 if centered else scaled}
    if config["training"]["sde"] != "vpsde":
        std = ve_std(t, config)
        net_out = network(x, std)
        return outputs | {
            "out_labels": std,
            "out_marginal_std": std,
            "out_net_out": net_out,
            "out_score": net_out,
        }
    std, labels = vp_std(t, config["model"]), vp_labels(t, config)
    outputs |= {"out_labels": labels, "out_marginal_std": std, "out_net_out": network(x, labels)}
    outputs["out_score"] = -outputs["out_net_out"] / per_sample(std, x)
    if not config["training"]["unbounded_parametrization"]:
        outputs["out_score"] = -network(x, TIME_SCALE * t) / per_sample(std, x)
    beta = per_sample(
        config["model"]["beta_min"] + (config["model"]["beta_max"] - config["model"]["beta_min"]) * t, x
    )
    return outputs | {"out_pf_ode_drift": -0.5 * beta * (x + outputs["out_score"])}


def latent_variance(t: Tensor, sde: Config) -> Tensor:
    """Of LSGM's two variance-preserving diffusions: linear beta, or geometric."""
    if sde["sde_type"] == "vpsde":
        beta = t * (sde["beta_start"] + 0.5 * (sde["beta_end"] - sde["beta_start"]) * t)
        return 1 - (1 - sde["sigma2_0"]) * torch.exp(-beta)
    return (
        sde["sigma2_min"] * (sde["sigma2_max"] / sde["sigma2_min"]) ** t - sde["sigma2_min"] + sde["sigma2_0"]
    )


def run_prior(config: Config, arrays: Arrays, weights: dict[str, dict[str, Tensor]]) -> Arrays:
    prior = prior_from(config["args"], config["num_input_channels"]).eval()
    assert prior.image_size == config["input_size"]
    load_into(prior, weights["net"], source="net")
    x, t = arrays["in_x"], arrays["in_t"]
    # One time for all samples: the case does not say whose, but the sample that it belongs to comes out as
    # with its own.
    shared = (arrays["out_net_out_t_scalar"] - arrays["out_net_out"]).flatten(1).abs().amax(dim=1).argmin()
    outputs = {
        "out_net_out": prior(x, t),
        "out_net_out_t_scalar": prior(x, t[shared]),
        "out_net_out_is_active": prior(x * arrays["in_is_active"], t),
        "out_temb": prior.temb_fun(t),
    }
    if prior.mixing_logit is None:
        return outputs
    outputs["out_mixing_sigmoid"] = prior.mixing_logit.sigmoid()
    variances = {name: latent_variance(t, sde) for name, sde in config["sdes"].items()}
    outputs |= {
        f"out_mixed_eps_{name}": prior.epsilon(x, t, variance) for name, variance in variances.items()
    }
    prior.mixing_logit.data.fill_(-torch.inf)  # leaves the normal prior's part alone
    return outputs | {
        f"out_mixing_component_{name}": prior.epsilon(x, t, variance) for name, variance in variances.items()
    }


RUNS = [(is_soft_truncation_network, run_soft_truncation), (is_lsgm_prior, run_prior)]


@pytest.mark.parametrize(
    ("case", "run"),
    [
        pytest.param(*param.values, run, id=param.id)
        for chosen, run in RUNS
        for param in goldens.cases(chosen)
    ],
)
def test_every_output_of_the_original_is_reproduced_from_its_weights(
    case: Case, run: Callable[..., Arrays]
) -> None:
    config, arrays, weights = goldens.load(case)
    outputs = run(config, arrays, weights)
    expected = {name: value for name, value in arrays.items() if name.startswith("out_")}
    assert expected.keys() <= outputs.keys()
    for name, value in expected.items():
        goldens.close(case, name, outputs[name], value, **TOLERANCE)


SOFT_TRUNCATION = (
    "Soft-Truncation CELEBA ddpmpp (configs/vp/CELEBA/ddpmpp_fid.py; same keys for all vp/CELEBA/*ddpmpp*)"
)
LSGM_PRIOR = "LSGM CIFAR-10 best FID prior (180 latent channels, num_channels_dae 512)"


@pytest.mark.parametrize(
    ("published", "build", "untrained"),
    [(SOFT_TRUNCATION, NCSNppModule, {"sigmas"}), (LSGM_PRIOR, LSGMPriorModule, set())],
    ids=["celeba", "lsgm"],
)
def test_full_size_networks_have_every_published_name_and_shape_in_the_published_order(
    published: str, build: type[NCSNppModule | LSGMPriorModule], untrained: set[str]
) -> None:
    shapes = json.loads(
        (goldens.REPOSITORY / "tests" / "goldens" / "networks" / "official_shapes.json").read_text()
    )[published]
    with torch.device("meta"):
        network = build()
    assert [(name, list(tensor.shape)) for name, tensor in network.state_dict().items()] == list(
        shapes.items()
    )
    assert network.ema_names() == [name for name in shapes if name not in untrained]
