"""The networks give the reference implementations' numbers from the reference's own weights, and have its
parameter names and shapes."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from parity import goldens
from parity.goldens import Case
from torch import Tensor

from dgflow.networks.adm.encoder import ADMEncoderModule
from dgflow.networks.adm.unet import ADMUNetModule
from dgflow.networks.discriminator.module import DiscriminatorModule
from dgflow.networks.edm import preconditioners as edm
from dgflow.networks.edm.dhariwal import DhariwalUNetModule
from dgflow.networks.edm.layers import UNetBlock
from dgflow.networks.edm.song import SongUNetModule
from dgflow.weights.tensors import load_into

MULTS_OF_SIZE: dict[int, tuple] = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
}
"""Levels that the reference's factories choose by image size."""

Arrays = dict[str, Tensor]
Weights = dict[str, dict[str, Tensor]]
Outputs = dict[str, Tensor]


def has_encoder_and_heads(case: Case) -> bool:
    return {"classifier", "disc_uncond", "disc_cond"} <= case.config.keys()


def run_encoder_and_heads(config: dict[str, Any], arrays: Arrays, weights: Weights) -> Outputs:
    networks = {name: adm_encoder(config[name], time_scale=999.0) for name in weights}
    for name, network in networks.items():
        load_into(network, weights[name], source=name)
    extractor = networks["classifier"]
    uncond, cond = (
        DiscriminatorModule(extractor, networks["disc_uncond"]),
        DiscriminatorModule(extractor, networks["disc_cond"]),
    )
    x, t = arrays["in_x"], arrays["in_t"]
    outputs = {
        "out_feature": extractor.features(x, t),
        "out_logits": extractor(x, t),
        "out_logits_t_float64": extractor(x, t.double()),
        "out_disc_uncond_logit": uncond(x, t)[:, None],
        "out_disc_cond_logit": cond(x, t, arrays["in_y_index"])[:, None],
    }
    assert torch.equal(cond(x, t, arrays["in_y_onehot"])[:, None], outputs["out_disc_cond_logit"])
    return outputs | {
        f"out_disc_{kind}_sigmoid": outputs[f"out_disc_{kind}_logit"].sigmoid() for kind in ("uncond", "cond")
    }


def is_factory_discriminator(case: Case) -> bool:
    """The reference's factory for small images fixes the levels by image size, 64 channels a head and 1000
    classes."""
    return {"classifier_width", "in_channels", "image_size"} <= case.config.keys()


def run_factory_discriminator(config: dict[str, Any], arrays: Arrays, weights: Weights) -> Outputs:
    size, width = config["image_size"], config["classifier_width"]
    last = (
        arrays["out_feature"].shape[1] // width
    )  # of 32 pixels, where the repository for latents has 3 for 4
    mults = MULTS_OF_SIZE | {32: (1, 2, last), 16: (1, 2), 8: (1,)}
    network = ADMEncoderModule(
        image_size=size,
        in_channels=config["in_channels"],
        model_channels=width,
        out_channels=config["out_channels"],
        num_res_blocks=config["classifier_depth"],
        attention_resolutions=[
            size // int(side) for side in config["classifier_attention_resolutions"].split(",")
        ],
        channel_mult=mults[size],
        num_classes=1000 if config["condition"] else None,
        pool=config["classifier_pool"],
        use_scale_shift_norm=config["classifier_use_scale_shift_norm"],
        resblock_updown=config["classifier_resblock_updown"],
    )
    load_into(network, weights["disc"], source="disc")
    features = network.features(arrays["in_x"], arrays["in_t"], arrays.get("in_y"))
    logit = network.head(features)
    return {"out_feature": features, "out_logit": logit, "out_sigmoid": logit.sigmoid()}


def is_upstream_classifier(case: Case) -> bool:
    """guided-diffusion's classifier by itself: its time is the integer step."""
    return (
        "guided-diffusion" in case.reference
        and "EncoderUNetModel" in case.reference
        and "classifier" in (case.entry["weights"] or {})
    )


def run_upstream_classifier(config: dict[str, Any], arrays: Arrays, weights: Weights) -> Outputs:
    network = adm_encoder(config.get("classifier", config), time_scale=1.0)
    load_into(network, weights["classifier"], source="classifier")
    x = arrays["in_x"].clone().requires_grad_()
    outputs = {"out_logits": network(x, arrays["in_t"])}
    if "out_grad" in arrays:
        log_likelihood = outputs["out_logits"].log_softmax(dim=1).gather(1, arrays["in_y"][:, None]).sum()
        outputs["out_grad"] = torch.autograd.grad(log_likelihood, x)[0] * config["classifier_scale"]
    return outputs


def is_adm_unet(case: Case) -> bool:
    """guided-diffusion's U-Net by itself, built by its factory from command-line options."""
    return {
        "num_channels",
        "learn_sigma",
        "class_cond",
    } <= case.config.keys() and "out_out_t_int" in case.entry["arrays"]


def run_adm_unet(config: dict[str, Any], arrays: Arrays, weights: Weights) -> Outputs:
    network = adm_unet(config).eval()
    load_into(network, weights["net"], source="net")
    labels = arrays.get("in_y")
    outputs = {
        f"out_out_t_{kind}": network(arrays["in_x"], arrays[f"in_t_{kind}"], labels)
        for kind in ("int", "float")
    }
    if labels is not None and network.num_classes is not None:
        one_hot = torch.nn.functional.one_hot(labels, network.num_classes)
        assert torch.equal(network(arrays["in_x"], arrays["in_t_int"], one_hot), outputs["out_out_t_int"])
    return outputs


def is_denoiser(case: Case) -> bool:
    return "out_D" in case.entry["arrays"] and case.config.get("kwargs", {}).get("model_type") in (
        "SongUNet",
        "DhariwalUNet",
    )


def run_denoiser(config: dict[str, Any], arrays: Arrays, weights: Weights) -> Outputs:
    kwargs = dict(config["kwargs"])
    if kwargs.pop("model_type") == "SongUNet":
        network = SongUNetModule(**kwargs)
    else:
        outputs_per_channel = 2 if config["precond"] == "iDDPMPrecond" else 1
        network = DhariwalUNetModule(**kwargs, out_channels=outputs_per_channel * kwargs["img_channels"])
    denoiser = getattr(edm, config["precond"])(network).eval()
    load_into(denoiser, weights["net"], source="net")
    x, sigma, labels, augment = (
        arrays["in_x"],
        arrays["in_sigma"],
        arrays.get("in_labels"),
        arrays.get("in_augment"),
    )
    outputs: Outputs = {}

    def record(_: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs.update({"out_model_x": inputs[0], "out_model_c_noise": inputs[1], "out_F": output})

    with denoiser.model.register_forward_hook(record):
        outputs["out_D"] = denoiser(x, sigma, labels)
    # One level for all samples: the case does not say whose, but the sample that it belongs to comes out as
    # before.
    shared = (arrays["out_D_single_sigma"] - arrays["out_D"]).flatten(1).abs().amax(dim=1).argmin()
    outputs["out_D_single_sigma"] = denoiser(x, sigma[shared], labels)
    if labels is not None:
        outputs["out_D_no_labels"] = denoiser(x, sigma)
        assert torch.equal(denoiser(x, sigma, labels.argmax(dim=1)), outputs["out_D"])
    if augment is not None and network.augment_dim:
        outputs["out_D_augment"] = denoiser(x, sigma, labels, augment)
    outputs["out_sigma_min_max"] = torch.tensor([denoiser.sigma_min, denoiser.sigma_max], dtype=torch.float64)
    outputs["out_round_sigma"] = denoiser.round_sigma(arrays["out_round_sigma"])
    if (
        "out_sigma_inv" in arrays
    ):  # the case does not keep what these were computed from, so that each is mapped there and back
        outputs["out_sigma_of_t"] = denoiser.sigma(denoiser.sigma_inv(arrays["out_sigma_of_t"]))
        outputs["out_sigma_inv"] = denoiser.sigma_inv(denoiser.sigma(arrays["out_sigma_inv"]))
    return outputs


def is_edm_block(case: Case) -> bool:
    return "emb_channels" in case.config and "block" in (case.entry["weights"] or {})


def run_edm_block(config: dict[str, Any], arrays: Arrays, weights: Weights) -> Outputs:
    """The reference gives attention a number of heads, or as many as there are whole `channels_per_head`."""
    widths = (config["in_channels"], config["out_channels"], config["emb_channels"])
    options = {
        name: config[name]
        for name in ("resample_filter", "resample_proj", "adaptive_scale", "skip_scale", "eps")
        if name in config
    }
    resample = "down" if config.get("down") else "up" if config.get("up") else None
    heads = config.get("num_heads") or config["out_channels"] // config.get("channels_per_head", 64)
    block = UNetBlock(
        *widths, resample=resample, num_heads=heads if config.get("attention") else 0, **options
    ).eval()
    load_into(block, weights["block"], source="block")
    return {"out_out": block(arrays["in_x"], arrays["in_emb"])}


def adm_unet(config: dict[str, Any]) -> ADMUNetModule:
    """Build a U-Net from the options of the reference's factory: resolutions are sides in pixels, and an
    empty `channel_mult` goes by the image size.
    """
    size, mults = config["image_size"], config["channel_mult"]
    return ADMUNetModule(
        image_size=size,
        model_channels=config["num_channels"],
        out_channels=6 if config["learn_sigma"] else 3,
        num_res_blocks=config["num_res_blocks"],
        attention_resolutions=[size // int(side) for side in config["attention_resolutions"].split(",")],
        channel_mult=[float(mult) for mult in mults.split(",")] if mults else MULTS_OF_SIZE[size],
        num_classes=config["NUM_CLASSES"] if config["class_cond"] else None,
        num_head_channels=None if config["num_head_channels"] == -1 else config["num_head_channels"],
        num_heads=config["num_heads"],
        num_heads_upsample=None if config["num_heads_upsample"] == -1 else config["num_heads_upsample"],
        use_scale_shift_norm=config["use_scale_shift_norm"],
        resblock_updown=config["resblock_updown"],
        new_attention_order=config["use_new_attention_order"],
        dropout=config["dropout"],
    )


def adm_encoder(config: dict[str, Any], time_scale: float) -> ADMEncoderModule:
    """Build an encoder from the reference's constructor arguments; its `condition` and `num_class` are our
    `num_classes`.
    """
    kwargs = {
        name: value for name, value in config.items() if name not in ("use_fp16", "condition", "num_class")
    }
    return ADMEncoderModule(
        **kwargs, num_classes=config["num_class"] if config.get("condition") else None, time_scale=time_scale
    )


ENCODER_TOLERANCE = {"rtol": 1e-4, "of_max": 1e-5}
DENOISER_TOLERANCE = {"of_max": 2e-5}
GRADIENT_TOLERANCE = {"of_max": 1e-4}
RUNS: list[
    tuple[Callable[[Case], bool], Callable[[dict[str, Any], Arrays, Weights], Outputs], dict[str, float]]
] = [
    (has_encoder_and_heads, run_encoder_and_heads, ENCODER_TOLERANCE),
    (is_factory_discriminator, run_factory_discriminator, ENCODER_TOLERANCE),
    (is_upstream_classifier, run_upstream_classifier, ENCODER_TOLERANCE),
    (is_adm_unet, run_adm_unet, ENCODER_TOLERANCE),
    (is_denoiser, run_denoiser, DENOISER_TOLERANCE),
    (is_edm_block, run_edm_block, ENCODER_TOLERANCE),
]
CLAIMS: list[Callable[[Case], bool]] = [chosen for chosen, _, _ in RUNS]


@pytest.mark.parametrize(
    ("case", "run", "tolerance"),
    [
        pytest.param(*param.values, run, tolerance, id=param.id)
        for chosen, run, tolerance in RUNS
        for param in goldens.cases(chosen)
    ],
)
def test_every_output_of_the_reference_is_reproduced_from_its_weights(
    case: Case, run: Callable[..., Outputs], tolerance: dict
) -> None:
    config, arrays, weights = goldens.load(case)
    outputs = run(config, arrays, weights)
    assert outputs.keys() == {name for name in arrays if name.startswith("out_")}
    for name, output in outputs.items():
        goldens.close(
            case, name, output, arrays[name], **(GRADIENT_TOLERANCE if "grad" in name else tolerance)
        )


ADM_32: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 3,
    "model_channels": 128,
    "out_channels": 1000,
    "num_res_blocks": 4,
}
ADM_32 |= {"channel_mult": (1, 2, 4), "attention_resolutions": (1, 2, 4)}
ADM_64 = ADM_32 | {"image_size": 64, "channel_mult": (1, 2, 3, 4), "attention_resolutions": (2, 4, 8)}
ADM_256 = ADM_32 | {
    "image_size": 256,
    "num_res_blocks": 2,
    "channel_mult": (1, 1, 2, 2, 4, 4),
    "attention_resolutions": (8, 16, 32),
}
LATENT_32 = ADM_32 | {"in_channels": 4, "num_res_blocks": 2, "channel_mult": (1, 2, 3)}
HEAD_8: dict[str, Any] = {
    "image_size": 8,
    "in_channels": 512,
    "model_channels": 128,
    "out_channels": 1,
    "num_res_blocks": 2,
}
HEAD_8 |= {"channel_mult": (1,), "attention_resolutions": (0, 0, 1)}
HEAD_16 = HEAD_8 | {
    "image_size": 16,
    "in_channels": 180,
    "num_res_blocks": 1,
    "channel_mult": (1, 2),
    "attention_resolutions": (1, 2),
}


UNET_256: dict[str, Any] = {
    "image_size": 256,
    "model_channels": 256,
    "out_channels": 6,
    "num_res_blocks": 2,
    "num_classes": 1000,
}
UNET_256 |= {"channel_mult": (1, 1, 2, 2, 4, 4), "attention_resolutions": (8, 16, 32)}


def song(side: int, channel_mult: tuple[int, ...]) -> torch.nn.Module:
    return edm.EDMPrecond(SongUNetModule(side, 3, augment_dim=9, channel_mult=channel_mult))


@pytest.mark.parametrize(
    ("published", "build"),
    [
        ("DG classifier 32 (load_classifier img_resolution=32)", lambda: ADMEncoderModule(**ADM_32)),
        ("DG discriminator uncond (load_discriminator channel=512)", lambda: ADMEncoderModule(**HEAD_8)),
        ("DG_imagenet latent classifier (load_classifier)", lambda: ADMEncoderModule(**LATENT_32)),
        ("guided-diffusion 256x256_classifier", lambda: ADMEncoderModule(**ADM_256)),
        ("ED-DPM classifier 256 (defaults)", lambda: ADMEncoderModule(**ADM_256)),
        ("guided-diffusion 256x256_diffusion (cond)", lambda: ADMUNetModule(**UNET_256)),
        ("edm-cifar10-32x32-uncond-vp", lambda: song(32, (2, 2, 2))),
        ("edm-ffhq-64x64-uncond-vp", lambda: song(64, (1, 2, 2, 2))),
        ("edm-imagenet-64x64-cond-adm", lambda: edm.EDMPrecond(DhariwalUNetModule(64, 3, label_dim=1000))),
    ],
)
def test_full_size_networks_have_every_published_name_and_shape(
    published: str, build: Callable[[], torch.nn.Module]
) -> None:
    shapes = json.loads(
        (goldens.REPOSITORY / "tests" / "goldens" / "networks" / "official_shapes.json").read_text()
    )[published]
    with torch.device("meta"):
        network = build()
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == shapes


@pytest.mark.parametrize(
    ("config", "num_classes", "parameters"),
    [
        pytest.param(ADM_64, None, 65_438_568, id="OpenAI classifier 64"),
        pytest.param(HEAD_8, 1000, 3_395_841, id="conditional discriminator"),
        pytest.param(HEAD_8 | {"in_channels": 384}, 1000, 3_248_385, id="discriminator of DiT"),
        pytest.param(HEAD_8 | {"num_res_blocks": 4}, None, 3_870_465, id="discriminator of FFHQ"),
        pytest.param(HEAD_16, None, 6_268_033, id="discriminator of LSGM"),
    ],
)
def test_networks_without_a_published_list_of_names_have_the_published_number_of_parameters(
    config: dict[str, Any], num_classes: int | None, parameters: int
) -> None:
    with torch.device("meta"):
        network = ADMEncoderModule(**config, num_classes=num_classes)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
