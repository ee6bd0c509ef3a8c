"""LSGM's networks from the arguments of a run, as its checkpoints hold them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dgflow.networks.lsgm.nvae import NVAEModule
from dgflow.networks.lsgm.prior import LSGMPriorModule

IMAGE_SHAPES = {"cifar10": (3, 32, 32), "mnist": (1, 32, 32), "omniglot": (1, 32, 32)}
"""The image shape (channels, height, width) of each data set; the 28 pixels of the last two are padded."""
NOT_IN_ARGUMENTS = {"image_size", "in_channels", "batch_statistics"}


def prior_from(
    args: Mapping[str, Any], num_input_channels: int, image_size: int | None = None
) -> LSGMPriorModule:
    """The prior of latents whose side is `image_size` (None: the arguments' data set's); old checkpoints lack
    `mixing_logit_init`."""
    dataset, levels = args["dataset"], args["num_scales_dae"]
    ch_mult = (1,) * levels
    if dataset.endswith("_256"):
        ch_mult = {3: (1, 1, 1), 4: (1, 2, 2, 2), 5: (1, 1, 2, 2, 2)}[levels]
    names = ("dropout", "fir", "progressive", "progressive_input", "progressive_combine")
    names += ("embedding_dim", "embedding_type", "embedding_scale", "mixed_prediction")
    return LSGMPriorModule(
        image_size=image_size or latent_side(args),
        num_input_channels=num_input_channels,
        num_channels=args["num_channels_dae"],
        ch_mult=ch_mult,
        num_res_blocks=args["num_cell_per_scale_dae"],
        mixing_logit_init=args.get("mixing_logit_init", -3.0),
        **{name: args[name] for name in names},
    )


def latent_side(args: Mapping[str, Any]) -> int:
    side = 256 if args["dataset"].endswith("_256") else IMAGE_SHAPES[args["dataset"]][-1]
    return side // 2 ** (args["num_preprocess_blocks"] + args["num_latent_scales"] - 1)


def vae_from(
    args: Mapping[str, Any], *, image_shape: Sequence[int] | None = None, batch_statistics: bool = False
) -> NVAEModule:
    """The autoencoder."""
    shape = image_shape or IMAGE_SHAPES[args["dataset"]]
    options = set(inspect.signature(NVAEModule).parameters) - NOT_IN_ARGUMENTS
    given = {name: args[name] for name in options if name in args}
    return NVAEModule(image_size=shape[-1], in_channels=shape[0], batch_statistics=batch_statistics, **given)


def cells_by_order(vae: NVAEModule, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`weights` under the names of `vae` where a kind of cell has other names for its operations: batch norms
    and convolutions of a cell are taken in their order."""
    ours = set(vae.state_dict())
    strangers = sorted((name for name in weights if name not in ours), key=natural)
    renamed = {name: value for name, value in weights.items() if name in ours}
    for cell in dict.fromkeys(name.partition("._ops.")[0] for name in strangers if "._ops." in name):
        theirs = [name for name in weights if name.startswith(f"{cell}._ops.")]
        for part in ("running_mean", "log_weight_norm"):  # of batch norms, and of convolutions
            pairs = [
                sorted((layer(name) for name in names if name.endswith(part)), key=natural)
                for names in (theirs, [name for name in ours if name.startswith(f"{cell}._ops.")])
            ]
            for found, wanted in zip(*pairs, strict=True):
                renamed |= {
                    f"{wanted}.{name.rpartition('.')[2]}": weights[name]
                    for name in theirs
                    if layer(name) == found
                }
    return renamed | {name: weights[name] for name in strangers if "._ops." not in name}


def layer(name: str) -> str:
    return name.rpartition(".")[0]


def natural(name: str) -> list[tuple[int, str]]:
    """Key by which conv_2 comes before conv_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
