"""LSGM's networks from the arguments of a run, as its checkpoints hold them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from dgflow.networks.lsgm.nvae import NVAEModule
from dgflow.networks.lsgm.prior import LSGMPriorModule

IMAGE_SHAPES = {"cifar10": (3, 32, 32), "mnist": (1, 32, 32), "omniglot": (1, 32, 32)}
"""Of the data sets; the 28 pixels of the last two are padded."""
NOT_IN_ARGUMENTS = {"image_size", "in_channels", "batch_statistics"}


def prior_from(args: Mapping[str, Any], num_input_channels: int) -> LSGMPriorModule:
    """The prior; old checkpoints lack `mixing_logit_init`."""
    dataset, levels = args["dataset"], args["num_scales_dae"]
    ch_mult, side = (1,) * levels, 256
    if dataset.endswith("_256"):
        ch_mult = {3: (1, 1, 1), 4: (1, 2, 2, 2), 5: (1, 1, 2, 2, 2)}[levels]
    else:
        side = IMAGE_SHAPES[dataset][-1]
    names = ("dropout", "fir", "progressive", "progressive_input", "progressive_combine")
    names += ("embedding_dim", "embedding_type", "embedding_scale", "mixed_prediction")
    return LSGMPriorModule(
        image_size=side // 2 ** (args["num_preprocess_blocks"] + args["num_latent_scales"] - 1),
        num_input_channels=num_input_channels,
        num_channels=args["num_channels_dae"],
        ch_mult=ch_mult,
        num_res_blocks=args["num_cell_per_scale_dae"],
        mixing_logit_init=args.get("mixing_logit_init", -3.0),
        **{name: args[name] for name in names},
    )


def vae_from(
    args: Mapping[str, Any], *, image_shape: Sequence[int] | None = None, batch_statistics: bool = False
) -> NVAEModule:
    """The autoencoder."""
    shape = image_shape or IMAGE_SHAPES[args["dataset"]]
    options = set(inspect.signature(NVAEModule).parameters) - NOT_IN_ARGUMENTS
    given = {name: args[name] for name in options if name in args}
    return NVAEModule(image_size=shape[-1], in_channels=shape[0], batch_statistics=batch_statistics, **given)
