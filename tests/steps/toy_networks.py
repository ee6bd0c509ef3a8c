"""One small network of every kind that a recipe can name, and files of their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

import dgflow as dg
from dgflow.specs.bound import Bound
from dgflow.weights.tensors import save_weights

HEAD = dg.ADMEncoder(model_channels=32, num_res_blocks=1, attention_resolutions=(), num_head_channels=32)
SD = dg.StableDiffusionVAE(block_out_channels=(16, 16, 16), layers_per_block=1, norm_num_groups=8)
HIERARCHICAL = dg.NVAE(
    num_channels_enc=8,
    num_channels_dec=8,
    num_preprocess_cells=1,
    num_postprocess_cells=1,
    num_groups_per_scale=2,
    num_latent_per_group=3,
    num_cell_per_cond_enc=1,
    num_cell_per_cond_dec=1,
)
EDM: dict[str, Any] = {
    "model_channels": 8,
    "channel_mult": (1, 2),
    "num_blocks": 1,
    "attn_resolutions": (4,),
    "dropout": 0.0,
}
WIDE: dict[str, Any] = EDM | {"model_channels": 32}
SCORES: dict[str, dict[str, Any]] = {
    "SongUNet": {"network": dg.SongUNet(**EDM), "num_classes": 3},
    "SongUNet VP": {"network": dg.SongUNet(**EDM, precond="vp"), "num_classes": 3},
    "SongUNet VE": {"network": dg.SongUNet(**EDM, precond="ve"), "num_classes": 3},
    "DhariwalUNet": {"network": dg.DhariwalUNet(**WIDE), "num_classes": 3},
    "DhariwalUNet iDDPM": {"network": dg.DhariwalUNet(**WIDE, precond="iddpm"), "num_classes": 3},
    "EDM2UNet": {"network": dg.EDM2UNet(**EDM, channels_per_head=8), "num_classes": 3},
    "ADMUNet": {
        "network": dg.ADMUNet(
            model_channels=32,
            channel_mult=(1, 1),
            num_res_blocks=1,
            attention_resolutions=(2,),
            num_head_channels=32,
        ),
        "num_classes": 3,
    },
    "DiT": {"network": dg.DiT(hidden_size=32, depth=1, num_heads=2), "num_classes": 3, "channels": 4},
    "NCSNpp": {
        "network": dg.NCSNpp(nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,), dropout=0.0)
    },
    "DDPMUNet": {"network": dg.DDPMUNet(ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(4,))},
    "LSGMPrior": {
        "network": dg.LSGMPrior(
            num_channels=8, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(4,), embedding_dim=16
        ),
        "channels": 6,
    },
}


def randomised(network: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """Sets every parameter to small random values, including those that start at zero; buffers stay as
    built."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return network.state_dict()


def pretrained(folder: Path, name: str, inputs: Bound | None = None, **fields: Any) -> dg.Pretrained:
    """Returns a `Pretrained` of the given fields whose file is written to `folder`."""
    file = folder / f"{name.replace(' ', '-')}.safetensors"
    step = dg.Pretrained(source=str(file), **{"image_size": 8, **fields})
    torch.manual_seed(0)
    file.write_bytes(save_weights(randomised(step.trained_part(step.build(inputs or Bound())))))
    return step


def discriminator(folder: Path, classifier: dg.Pretrained) -> dg.Pretrained:
    """Returns a head, with 1,000 rows of labels as the published ones, on the features of a classifier that
    is a `HEAD` itself."""
    file = folder / f"{Path(classifier.source).stem}-head.safetensors"
    torch.manual_seed(0)
    head = HEAD.head(image_size=8, channels=HEAD.model_channels, num_classes=1000)
    file.write_bytes(save_weights(randomised(head)))
    network = dg.Discriminator(head=HEAD, features=classifier.weights())
    return dg.Pretrained(
        source=str(file), network=network, image_size=8, channels=classifier.channels, num_classes=1000
    )
