"""NVAE decodes and encodes as LSGM's does from its own weights, and has its parameter names and shapes."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from parity import goldens
from parity.goldens import Case
from parity.lsgm_arguments import cells_by_order, vae_from
from torch import Tensor

from dgflow.networks.lsgm.nvae import NVAEModule
from dgflow.networks.lsgm.nvae_heads import image_mean, logistic_mixture
from dgflow.networks.lsgm.nvae_layers import FlowCell, soft_clamp
from dgflow.weights.tensors import load_into

Arrays = dict[str, Tensor]


def is_vae(case: Case) -> bool:
    """An NVAE by itself, that decodes latents which the case supplies."""
    return (
        "nvae.py" in case.reference
        and (case.entry["weights"] or {}).keys() == {"vae"}
        and "in_eps_scale0" in case.entry["arrays"]
    )


CLAIMS: list[Callable[[Case], bool]] = [is_vae]

LIKELIHOODS = ("out_log_p", "out_dist_")
"""Beginnings of outputs about the head's distribution, of which decoding to the mean knows a part."""


def run_vae(args: dict[str, Any], arrays: Arrays, weights: dict[str, Tensor]) -> Arrays:
    shape = arrays["in_img"].shape[1:]
    vae = built(args, weights, image_shape=shape)
    latents = scales(arrays, "in_eps_scale")
    logits = vae.logits(latents)
    outputs = {
        "out_image": vae.decode(latents),
        "out_logits": logits,
        "out_output_mean": image_mean(args["decoder_dist"], logits),
        "out_decompose_first_group": vae.decompose(latents)[0],
        "out_image_bn_train_mode": built(args, weights, image_shape=shape, batch_statistics=True).decode(
            latents
        ),
    }
    if args["decoder_dist"] == "dml":
        mixture = logistic_mixture(logits)
        parts = {
            "logit_probs": mixture.logits_BMHW,
            "means": mixture.means_BCMHW,
            "coeffs": mixture.coefficients_BCMHW,
        }
        outputs |= {f"out_dist_{name}": part for name, part in parts.items()}
    if args["decoder_dist"] == "dl":
        outputs["out_dist_means"] = image_mean("dl", logits)
    if args["decoder_dist"] == "normal":
        mu, log_sigma = soft_clamp(logits, 5.0).chunk(2, dim=1)
        outputs |= {"out_dist_mu": mu, "out_dist_log_sigma": log_sigma}

    # The density of a group's posterior at its own draw, before the flow, whose volume is 1.
    log_q: list[Tensor] = []
    rho = [per_group.transpose(0, 1).flatten(1, 2) for per_group in scales(arrays, "in_enc_rho_scale")]
    rho_groups = vae.decompose(rho)

    def record(_: torch.nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        log_sigma = soft_clamp(output.chunk(2, dim=1)[1], args["log_sig_q_scale"])
        log_q.append(-0.5 * rho_groups[len(log_q)] ** 2 - 0.5 * math.log(2 * math.pi) - log_sigma)

    for sampler in vae.enc_sampler:
        sampler.register_forward_hook(record)
    encoded = vae.encode((arrays["in_img"] + 1) / 2, rho)  # the case's images are scaled to [-1, 1]
    per_scale = args["num_groups_per_scale"]
    for scale, latent in enumerate(encoded):
        outputs[f"out_enc_eps_scale{scale}"] = latent
        outputs[f"out_enc_log_q_scale{scale}"] = torch.cat(
            log_q[scale * per_scale : (scale + 1) * per_scale], dim=1
        )
    outputs["out_recon_logits"] = vae.logits(encoded)
    outputs["out_recon_mean"] = image_mean(args["decoder_dist"], outputs["out_recon_logits"])
    return outputs


@pytest.mark.parametrize("case", goldens.cases(is_vae))
def test_every_output_of_the_reference_is_reproduced_from_its_weights(case: Case) -> None:
    config, arrays, weights = goldens.load(case)
    with torch.no_grad():
        outputs = run_vae(config["args"], arrays, weights["vae"])
    wanted = {name for name in arrays if name.startswith("out_") and not name.startswith(LIKELIHOODS)}
    assert wanted <= outputs.keys()
    for name in arrays.keys() & outputs.keys():
        output, expected = outputs[name], arrays[name]
        # The reference keeps a corner of some outputs.
        corner = output[tuple(slice(size) for size in expected.shape)]
        goldens.close(case, name, corner, expected, rtol=1e-4, of_max=1e-5)


@pytest.mark.parametrize("case", goldens.cases(is_vae))
def test_groups_that_are_not_supplied_are_drawn_by_the_caller_in_the_decoders_order(case: Case) -> None:
    config, arrays, weights = goldens.load(case)
    vae = built(config["args"], weights["vae"], image_shape=arrays["in_img"].shape[1:])
    latents = scales(arrays, "in_eps_scale")
    groups = vae.decompose(latents)
    drawn: list[int] = []

    def draw(number: int, shape: tuple[int, ...]) -> Tensor:
        drawn.append(number)
        assert groups[number].shape == shape
        return groups[number]

    with torch.no_grad():
        assert torch.equal(vae.decode(latents[0], draw), vae.decode(latents))
    assert drawn == list(range(config["args"]["num_groups_per_scale"], len(groups)))


@pytest.mark.parametrize("mirror", [False, True])
def test_a_flow_cell_shifts_each_variable_by_those_before_it_alone(mirror: bool) -> None:
    cell = FlowCell(3, mirror=mirror)

    def in_order(x_N: Tensor) -> Tensor:
        z_BHWZ = cell(ordered(x_N.reshape(1, 4, 4, 3)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return ordered(z_BHWZ).flatten()

    def ordered(z_BHWZ: Tensor) -> Tensor:
        return z_BHWZ.flip(1, 2) if mirror else z_BHWZ

    jacobian = torch.autograd.functional.jacobian(in_order, torch.linspace(-1, 1, 48))
    assert isinstance(jacobian, Tensor)
    assert torch.equal(jacobian.triu(), torch.eye(48))
    assert jacobian.tril(-1).count_nonzero() > 0


def test_full_size_network_has_every_published_name_and_shape() -> None:
    published = goldens.REPOSITORY / "tests" / "goldens" / "networks" / "official_shapes.json"
    shapes = json.loads(published.read_text())["LSGM CIFAR-10 best FID VAE (vae2)"]
    with torch.device("meta"):
        vae = vae_from(CIFAR10_BEST_FID)
    assert {name: list(tensor.shape) for name, tensor in vae.state_dict().items()} == shapes
    assert sum(parameter.numel() for parameter in vae.parameters()) == 100_867_740
    assert vae.latent_shapes == ((180, 16, 16),)


def test_latents_of_too_few_scales_are_refused_when_nothing_draws_the_others() -> None:
    vae = vae_from(TWO_SCALES)
    with pytest.raises(ValueError, match="draw"):
        vae.decode(torch.zeros(1, *vae.latent_shapes[0]))


def test_latents_of_another_shape_are_refused_with_the_expected_ones() -> None:
    vae = vae_from(TWO_SCALES)
    with pytest.raises(ValueError, match=r"\(2, 8, 8\), \(2, 16, 16\)"):
        vae.decode([torch.zeros(1, 2, 16, 16), torch.zeros(1, 2, 8, 8)])


def test_widths_that_do_not_fit_the_number_of_scales_are_refused() -> None:
    with pytest.raises(ValueError, match="channel_mult"):
        vae_from(TWO_SCALES | {"channel_mult": [1, 2]})


def test_decoding_never_changes_the_stored_statistics() -> None:
    vae = vae_from(TWO_SCALES, batch_statistics=True).train()
    before = {name: buffer.clone() for name, buffer in vae.named_buffers()}
    with torch.no_grad():
        vae.decode([torch.ones(2, *shape) for shape in vae.latent_shapes])
    assert all(torch.equal(buffer, before[name]) for name, buffer in vae.named_buffers())


def test_cells_whose_operations_have_other_names_are_matched_by_their_order() -> None:
    torch.manual_seed(0)
    vae = vae_from(TWO_SCALES)
    others = {
        name.replace("_ops.1.bn_act", "_ops.0.bn_act_2").replace("_ops.1.conv_0", "_ops.0.conv_1"): value
        for name, value in vae.state_dict().items()
    }
    matched = built(TWO_SCALES | {"arch_instance": "res_bnswish2"}, others)
    latents = [torch.randn(1, *shape) for shape in vae.latent_shapes]
    with torch.no_grad():
        assert torch.equal(matched.decode(latents), vae.decode(latents))


@pytest.mark.parametrize(("head", "options"), [("dl", {}), ("dml", {"num_mixture_dec": 3})])
def test_the_mean_of_a_head_follows_from_its_channels(head: str, options: dict[str, int]) -> None:
    """Discretised logistic: the first three channels. Three components with equal logits and no dependence
    between colours: the average of the three means of each colour."""
    vae = vae_from(TWO_SCALES | {"decoder_dist": head} | options)
    logits = torch.randn(2, 30 if head == "dml" else 6, 4, 4) / 8
    assert vae.image_conditional[1].out_channels == logits.shape[1]
    expected = logits[:, :3]
    if head == "dml":
        logits[:, :3] = 1.5
        for colour in range(3):
            logits[:, 9 + 9 * colour : 12 + 9 * colour] = 0.0
        expected = torch.stack([logits[:, 3 + 9 * i : 6 + 9 * i].mean(1) for i in range(3)], 1)
    torch.testing.assert_close(image_mean(head, logits), expected)


def test_the_network_compiles_as_one_graph() -> None:
    vae = vae_from(TWO_SCALES)
    images = torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)

    def there_and_back(images: Tensor) -> Tensor:
        return vae.decode(vae.encode(images))

    with torch.no_grad():
        assert torch.equal(
            torch.compile(there_and_back, fullgraph=True, backend="eager")(images), there_and_back(images)
        )


CIFAR10_BEST_FID: dict[str, Any] = {
    "dataset": "cifar10",
    "decoder_dist": "dml",
    "arch_instance": "res_bnswish",
    "use_se": True,
    "channel_mult": [1, 2],
    "num_channels_enc": 128,
    "num_channels_dec": 128,
    "num_preprocess_blocks": 1,
    "num_preprocess_cells": 2,
    "num_postprocess_blocks": 1,
    "num_postprocess_cells": 2,
    "num_latent_scales": 1,
    "num_groups_per_scale": 20,
    "num_latent_per_group": 9,
    "num_cell_per_cond_enc": 2,
    "num_cell_per_cond_dec": 2,
    "num_nf": 0,
    "progressive_input_vae": "none",
    "log_sig_q_scale": 5.0,
}
TWO_SCALES = CIFAR10_BEST_FID | {
    "channel_mult": [1, 1, 2],
    "num_latent_scales": 2,
    "num_channels_enc": 4,
    "num_channels_dec": 4,
}
TWO_SCALES |= {
    "num_groups_per_scale": 2,
    "num_latent_per_group": 1,
    "num_nf": 1,
    "progressive_input_vae": "input_skip",
}
TWO_SCALES |= dict.fromkeys(
    ("num_cell_per_cond_enc", "num_cell_per_cond_dec", "num_preprocess_cells", "num_postprocess_cells"), 1
)


def built(args: dict[str, Any], weights: dict[str, Tensor], **options: Any) -> NVAEModule:
    vae = vae_from(args, **options)
    load_into(vae, cells_by_order(vae, weights), source="vae")
    return vae


def scales(arrays: Arrays, prefix: str) -> list[Tensor]:
    """The arrays of a name for scale 0 (the coarsest), 1, ..."""
    return [arrays[f"{prefix}{scale}"] for scale in range(sum(name.startswith(prefix) for name in arrays))]
