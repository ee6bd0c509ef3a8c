"""The networks of published files, as plain data: class of `dgflow.networks`, constructor's arguments, and a
network inside under `model`.

Promises the argument names of the constructors, and that building one gives the published names and shapes.
Loads no torch. The encoders take time in [0, 1], which they multiply by 999 themselves.
"""

from __future__ import annotations

from typing import Any

Network = dict[str, Any]

_NCSNPP: Network = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}


def edm(size: int, label_dim: int, kind: str, channel_mult: list[int], dropout: float) -> Network:
    """EDM's own SongUNets; "vp" and "ve" name the architecture (DDPM++, NCSN++), the preconditioning is EDM's
    in both."""
    model = {
        "class": "SongUNet",
        "img_resolution": size,
        "img_channels": 3,
        "label_dim": label_dim,
        "augment_dim": 9,
    }
    return {
        "class": "EDMPrecond",
        "model": {
            **model,
            "channel_mult": channel_mult,
            "dropout": dropout,
            **(_NCSNPP if kind == "ve" else {}),
        },
    }


EDM_IMAGENET_64: Network = {
    "class": "EDMPrecond",
    "model": {"class": "DhariwalUNet", "img_resolution": 64, "img_channels": 3, "label_dim": 1000},
}


def _encoder(
    size: int,
    in_channels: int,
    depth: int,
    attention: list[int],
    channel_mult: list[int],
    out_channels: int = 1000,
) -> Network:
    return {
        "class": "ADMEncoder",
        "image_size": size,
        "in_channels": in_channels,
        "model_channels": 128,
        "out_channels": out_channels,
        "num_res_blocks": depth,
        "attention_resolutions": attention,
        "channel_mult": channel_mult,
    }


CLASSIFIER_32 = _encoder(32, 3, 4, [1, 2, 4], [1, 2, 4])
CLASSIFIER_64 = _encoder(64, 3, 4, [2, 4, 8], [1, 2, 3, 4])
CLASSIFIER_256 = _encoder(256, 3, 2, [8, 16, 32], [1, 1, 2, 2, 4, 4])
CLASSIFIER_LATENT = _encoder(32, 4, 2, [1, 2, 4], [1, 2, 3])


def discriminator(in_channels: int, conditional: bool) -> Network:
    """The head on an extractor's 8x8 features; a conditional one has 1000 rows of labels, whatever the data."""
    return {
        **_encoder(8, in_channels, 2, [1], [1], out_channels=1),
        "num_classes": 1000 if conditional else None,
    }


def adm_unet_256(num_classes: int | None) -> Network:
    """ADM's U-Net for 256 pixels, with learned variances."""
    return {
        "class": "ADMUNet",
        "image_size": 256,
        "in_channels": 3,
        "model_channels": 256,
        "out_channels": 6,
        "num_res_blocks": 2,
        "attention_resolutions": [8, 16, 32],
        "channel_mult": [1, 1, 2, 2, 4, 4],
        "num_classes": num_classes,
        "num_head_channels": 64,
    }


def dit_xl_2(image_size: int) -> Network:
    """DiT-XL/2 on the latents of images of `image_size`."""
    return {
        "class": "DiT",
        "input_size": image_size // 8,
        "patch_size": 2,
        "in_channels": 4,
        "hidden_size": 1152,
        "depth": 28,
        "num_heads": 16,
        "mlp_ratio": 4.0,
        "num_classes": 1000,
        "learn_sigma": True,
    }


INCEPTION: Network = {"class": "InceptionV3"}

# `config` is what diffusers' AutoencoderKL is built with.
STABLE_DIFFUSION_VAE: Network = {
    "class": "StableDiffusionVAE",
    "scale": 0.18215,
    "config": {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "act_fn": "silu",
        "latent_channels": 4,
        "norm_num_groups": 32,
        "sample_size": 256,
    },
}

LSGM_CIFAR10: dict[str, Network] = {
    "prior": {
        "class": "LSGMPrior",
        "image_size": 16,
        "num_input_channels": 180,
        "num_channels": 512,
        "ch_mult": [1, 1, 1],
        "num_res_blocks": 8,
        "attn_resolutions": [16],
        "dropout": 0.2,
        "fir": True,
        "embedding_dim": 128,
        "embedding_type": "positional",
        "embedding_scale": 1000.0,
    },
    "vae": {
        "class": "NVAE",
        "image_size": 32,
        "in_channels": 3,
        "decoder_dist": "dml",
        "arch_instance": "res_bnswish",
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
        "use_se": True,
        "num_nf": 0,
    },
}

SOFT_TRUNCATION_CELEBA: Network = {
    "class": "NCSNpp",
    "image_size": 64,
    "num_channels": 3,
    "nf": 128,
    "ch_mult": [1, 2, 2, 2],
    "num_res_blocks": 4,
    "attn_resolutions": [16],
    "dropout": 0.1,
    "embedding_type": "positional",
}
