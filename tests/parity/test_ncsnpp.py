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
    """Build the network from the sections `data` and `model` of the original's configuration."""
    data, model = config["data"], config["model"]
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
    """The standard deviation in float32, as in the original, whose rounding is 0.6 % at t = 1e-5."""
    log_mean = -0.25 * t**2 * (model["beta_max"] - model["beta_min"]) - 0.5 * t * model["beta_min"]
    return (1.0 - (2.0 * log_mean).exp()).sqrt()


def vp_labels(t: Tensor, config: Config) -> Tensor:
    """999 t, or with the unbounded parametrisation 999 times the share of log(std^2 / mean^2) (stabilised)
    since 1e-5, in float32."""
    if not config["training"]["unbounded_parametrization"]:
        return TIME_SCALE * t
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


def moved(network: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, logarithm: bool) -> Tensor:
    """The change of each sample's output for a change of time by the float32 rounding of the Fourier
    features' angles 2 pi W t, hundreds of radians: each is a product (of a logarithm) with a relative error
    of about 2^-24.
    """
    relative = 2**-22 * (1 + t.log().abs() if logarithm else torch.ones_like(t))
    distance = (network(x, t * (1 + relative)) - network(x, t)).abs()
    return distance.flatten(1).amax(dim=1).reshape(-1, *[1] * (distance.ndim - 1))


def run_soft_truncation(
    config: Config, arrays: Arrays, weights: dict[str, dict[str, Tensor]]
) -> tuple[Arrays, Arrays]:
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
    # The published numbers for the network and its score: float32 leaves few digits of a standard deviation
    # near 0, and another processor's are others.
    labels, published_std = arrays["out_labels"], arrays["out_marginal_std"]
    net_out, fourier = network(x, labels), config["model"]["embedding_type"] == "fourier"
    lost = moved(network, x, labels, logarithm=True) if fourier else torch.zeros(len(x), 1, 1, 1)
    outputs["out_net_out"] = net_out
    if config["training"]["sde"] != "vpsde":
        std = ve_std(t, config)
        outputs |= {"out_labels": std, "out_marginal_std": std, "out_score": net_out}
        return outputs, {"out_net_out": lost, "out_score": lost}
    std = vp_std(t, config["model"])
    outputs |= {"out_labels": vp_labels(t, config), "out_marginal_std": std}
    outputs["out_score"] = -net_out / per_sample(published_std, x)
    lost_score = lost / per_sample(published_std, x)
    atols = {"out_net_out": lost, "out_score": lost_score, "out_marginal_std": 2**-23 / published_std}
    beta = per_sample(
        config["model"]["beta_min"] + (config["model"]["beta_max"] - config["model"]["beta_min"]) * t, x
    )
    outputs["out_pf_ode_drift"] = -0.5 * beta * (x + outputs["out_score"])
    return outputs, atols | {"out_pf_ode_drift": 0.5 * beta * lost_score}


def latent_variance(t: Tensor, sde: Config) -> Tensor:
    """The variance of LSGM's two variance-preserving diffusions: linear beta, or geometric."""
    if sde["sde_type"] == "vpsde":
        beta = t * (sde["beta_start"] + 0.5 * (sde["beta_end"] - sde["beta_start"]) * t)
        return 1 - (1 - sde["sigma2_0"]) * torch.exp(-beta)
    return (
        sde["sigma2_min"] * (sde["sigma2_max"] / sde["sigma2_min"]) ** t - sde["sigma2_min"] + sde["sigma2_0"]
    )


def run_prior(config: Config, arrays: Arrays, weights: dict[str, dict[str, Tensor]]) -> tuple[Arrays, Arrays]:
    prior = prior_from(config["args"], config["num_input_channels"], config["input_size"]).eval()
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
    atols = {}
    if config["args"]["embedding_type"] == "fourier":
        lost = moved(prior, x, t, logarithm=False)
        atols = dict.fromkeys((name for name in arrays if name.startswith(("out_net", "out_mixed"))), lost)
        atols["out_temb"] = moved(lambda _, time: prior.temb_fun(time), x, t, logarithm=False)
    if prior.mixing_logit is None:
        return outputs, atols
    outputs["out_mixing_sigmoid"] = prior.mixing_logit.sigmoid()
    variances = {name: latent_variance(t, sde) for name, sde in config["sdes"].items()}
    outputs |= {
        f"out_mixed_eps_{name}": prior.epsilon(x, t, variance) for name, variance in variances.items()
    }
    prior.mixing_logit.data.fill_(-torch.inf)  # leaves the normal prior's part alone
    outputs |= {
        f"out_mixing_component_{name}": prior.epsilon(x, t, variance) for name, variance in variances.items()
    }
    return outputs, atols


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
    case: Case, run: Callable[..., tuple[Arrays, Arrays]]
) -> None:
    config, arrays, weights = goldens.load(case)
    with torch.no_grad():
        outputs, atols = run(config, arrays, weights)
    expected = {name: value for name, value in arrays.items() if name.startswith("out_")}
    assert expected.keys() <= outputs.keys()
    for name, value in expected.items():
        goldens.close(case, name, outputs[name], value, **TOLERANCE, atol=atols.get(name, 0.0))


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
