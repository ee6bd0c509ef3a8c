"""DiT gives the original's numbers from its own weights, and diffusers' numbers from weights in diffusers'
layout."""

import inspect
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import Timesteps
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from parity import goldens
from parity.goldens import Case
from torch import Tensor

from dgflow.networks.dit.file import from_diffusers
from dgflow.networks.dit.module import SIZES, DiTModule
from dgflow.weights.tensors import load_into

TOLERANCE = {"rtol": 1e-4, "of_max": 1e-5}


def is_dit(case: Case) -> bool:
    """A transformer by itself, asked at single timesteps."""
    return {"input_size", "patch_size", "hidden_size"} <= case.config.keys()


CLAIMS: list[Callable[[Case], bool]] = [is_dit]


def built(config: dict[str, Any]) -> DiTModule:
    """Build the network from the original's constructor arguments; label dropout means a row for "no
    class".
    """
    kwargs = {
        name: value for name, value in config.items() if name in inspect.signature(DiTModule).parameters
    }
    return DiTModule(**kwargs, null_class=config["class_dropout_prob"] > 0).eval()


def published_guidance(network: DiTModule, x: Tensor, t: Tensor, labels: Tensor, scale: float) -> Tensor:
    """The first half of x with the labels of both halves (classes, then null), guided on the first three
    channels."""
    half = len(x) // 2
    out = network(x[:half].repeat(2, 1, 1, 1), t, labels)
    guided = out[half:, :3] + scale * (out[:half, :3] - out[half:, :3])
    return torch.cat([guided.repeat(2, 1, 1, 1), out[:, 3:]], dim=1)


@pytest.mark.parametrize("case", goldens.cases(is_dit))
def test_every_output_of_the_original_is_reproduced_from_its_weights(case: Case) -> None:
    config, arrays, weights = goldens.load(case)
    network = built(config)
    goldens.close(
        case, "out_pos_embed", network.pos_embed, arrays["out_pos_embed"], of_max=1e-7
    )  # before it is loaded
    load_into(network, weights["net"], source="net")
    x, labels = arrays["in_x"], arrays["in_y"]
    compared = {"out_pos_embed"}
    for name, expected in arrays.items():
        if found := re.fullmatch(r"out_(fwd|cfg|dg)_t(\d+)(?:_s(.+))?", name):
            kind, step = found[1], int(found[2])
            t = torch.full((len(x),), step)
            branch = (
                config.get("LT_cfg", 1.25)
                if step > config.get("branch_time", 200)
                else config.get("ST_cfg", 3.0)
            )
            scale = float(found[3]) if kind == "cfg" else branch
            actual = (
                network(x, t, labels) if kind == "fwd" else published_guidance(network, x, t, labels, scale)
            )
            goldens.close(case, name, actual, expected, **TOLERANCE)
            compared.add(name)
    assert compared == {name for name in arrays if name.startswith("out_")}


def test_the_full_size_network_has_every_published_name_and_shape_in_the_published_order() -> None:
    shapes = json.loads(
        (goldens.REPOSITORY / "tests" / "goldens" / "networks" / "official_shapes.json").read_text()
    )["DiT-XL/2 256"]
    with torch.device("meta"):
        network = DiTModule(**SIZES["DiT-XL/2"])
    assert [(name, list(tensor.shape)) for name, tensor in network.state_dict().items()] == list(
        shapes.items()
    )


def diffusers_model(**config: Any) -> DiTTransformer2DModel:
    """diffusers' model with the original's epsilon and time frequencies, from which diffusers deviates
    slightly, and one embedder in all blocks.
    """
    model = DiTTransformer2DModel(in_channels=4, out_channels=8, norm_eps=1e-6, **config).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    blocks: Any = model.transformer_blocks
    embedders = [block.norm1.emb for block in blocks]
    for embedder in embedders:
        embedder.load_state_dict(embedders[0].state_dict())
        embedder.time_proj = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)
    return model


@pytest.mark.parametrize(
    ("config", "ours"),
    [
        (
            {
                "num_attention_heads": 2,
                "attention_head_dim": 12,
                "num_layers": 3,
                "sample_size": 8,
                "patch_size": 2,
            },
            (24, 3, 2),
        ),
        (
            {
                "num_attention_heads": 4,
                "attention_head_dim": 8,
                "num_layers": 1,
                "sample_size": 12,
                "patch_size": 4,
            },
            (32, 1, 4),
        ),
    ],
)
def test_weights_of_diffusers_give_its_numbers_under_the_original_names(
    config: dict[str, Any], ours: tuple[int, int, int]
) -> None:
    model = diffusers_model(**config, num_embeds_ada_norm=10)
    side, (width, depth, heads) = config["sample_size"], ours
    network = DiTModule(
        input_size=side,
        patch_size=config["patch_size"],
        hidden_size=width,
        depth=depth,
        num_heads=heads,
        num_classes=10,
    ).eval()
    load_into(network, from_diffusers(model.state_dict(), side), source="diffusers")
    x = torch.randn(4, 4, side, side, generator=torch.Generator().manual_seed(1))
    timesteps, labels = torch.tensor([0, 1, 500, 999]), torch.tensor([0, 3, 9, 10])
    expected = model(x, timesteps, class_labels=labels).sample.detach()
    torch.testing.assert_close(
        network(x, timesteps, labels), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
    )
