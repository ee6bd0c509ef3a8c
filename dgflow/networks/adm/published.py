"""Published files of ADM (guided-diffusion)."""

from __future__ import annotations

from typing import Any

from dgflow.networks.adm.spec import ADMEncoder, ADMUNet
from dgflow.networks.published import Published, PublishedFile

SITE = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021"
PAGE = "https://github.com/openai/guided-diffusion"


def _file(file: str, network: Published, fid: float | None = None, note: str = "") -> PublishedFile:
    return PublishedFile(
        name=f"adm-imagenet-{file.replace('_', '-')}",
        file_name=f"{file}.pt",
        source=f"{SITE}/{file}.pt",
        format="state_dict",
        network={"": network},
        licence="MIT",
        page=PAGE,
        image_size=network.image_size,
        published_fid=fid,
        fid_note=note,
    )


_CLASSIFIER_64: Any = {
    "num_res_blocks": 4,
    "attention_resolutions": (2, 4, 8),
    "channel_mult": (1, 2, 3, 4),
    "time": "cosine-vp",
}
_CLASSIFIER_256: Any = {
    "attention_resolutions": (8, 16, 32),
    "channel_mult": (1, 1, 2, 2, 4, 4),
    "time": "ddpm-linear",
}
# The multiples are the default's, but stored as floats in the identity of these entries.
_UNET = ADMUNet(channel_mult=(1, 1, 2, 2, 4, 4))
FILES = (
    PublishedFile(
        name="adm-reference-imagenet-256",
        file_name="VIRTUAL_imagenet256_labeled.npz",
        source=f"{SITE}/ref_batches/imagenet/256/VIRTUAL_imagenet256_labeled.npz",
        format="npz",
        licence="MIT",
        page=f"{PAGE}/tree/main/evaluations",
        image_size=256,
    ),
    _file("64x64_classifier", Published(ADMEncoder(**_CLASSIFIER_64), 64, num_classes=1000)),
    _file("256x256_classifier", Published(ADMEncoder(**_CLASSIFIER_256), 256, num_classes=1000)),
    _file(
        "256x256_diffusion",
        Published(_UNET, 256, num_classes=1000),
        10.94,
        "without guidance; 4.59 with its classifier",
    ),
    _file("256x256_diffusion_uncond", Published(_UNET, 256)),
)
