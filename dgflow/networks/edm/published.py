"""Published files of EDM. Its baseline pickles are omitted, since the arguments of their networks are not
known.
"""

from __future__ import annotations

from typing import Any

from dgflow.networks.edm.spec import DhariwalUNet, SongUNet
from dgflow.networks.published import Published, PublishedFile
from dgflow.specs.network import NetworkSpec

_SITE = "https://nvlabs-fi-cdn.nvidia.com/edm"
_FROM: Any = {"licence": "CC BY-NC-SA 4.0", "page": "https://github.com/NVlabs/edm"}
_NCSNPP: Any = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": (1, 3, 3, 1),
}


def _file(
    data: str, network: NetworkSpec, size: int, classes: int, fid: float | None = None, note: str = ""
) -> PublishedFile:
    return PublishedFile(
        name=f"edm-{data}",
        file_name=f"edm-{data}.pkl",
        source=f"{_SITE}/pretrained/edm-{data}.pkl",
        format="edm_pickle",
        network={"": Published(network, size, num_classes=classes)},
        image_size=size,
        published_fid=fid,
        fid_note=note,
        **_FROM,
    )


def _pair(
    data: str,
    size: int,
    classes: int,
    channel_mult: tuple[int, ...],
    dropout: float,
    fid: float | None = None,
    note: str = "",
) -> list[PublishedFile]:
    """The vp and the ve network of one data set; the published FID is the vp network's.

    "vp" and "ve" name the architecture (DDPM++, NCSN++); the preconditioning is EDM's in both.
    """
    shared: Any = {"channel_mult": channel_mult, "dropout": dropout, "augment_dim": 9}
    return [
        _file(f"{data}-vp", SongUNet(**shared), size, classes, fid, note),
        _file(f"{data}-ve", SongUNet(**shared, **_NCSNPP), size, classes),
    ]


def _reference(name: str, size: int) -> PublishedFile:
    """The reference of one data set: `mu` and `sigma` of the training set's Inception features."""
    source = f"{_SITE}/fid-refs/{name}.npz"
    return PublishedFile(
        name=f"fid-{name}", file_name=f"{name}.npz", source=source, format="npz", image_size=size, **_FROM
    )


_UNCOND = "35 evaluations, random seeds; 1.97 with EDM's seeds"
_COND = "35 evaluations, random seeds; 1.79 with EDM's seeds"
FILES = (
    *_pair("cifar10-32x32-uncond", 32, 0, (2, 2, 2), 0.13, 2.03, _UNCOND),
    *_pair("cifar10-32x32-cond", 32, 10, (2, 2, 2), 0.13, 1.82, _COND),
    *_pair("ffhq-64x64-uncond", 64, 0, (1, 2, 2, 2), 0.05, 2.39, "79 evaluations"),
    *_pair("afhqv2-64x64-uncond", 64, 0, (1, 2, 2, 2), 0.25),
    _file("imagenet-64x64-cond-adm", DhariwalUNet(), 64, 1000, 1.36, "EDM's best sampler"),
    _reference("cifar10-32x32", 32),
    _reference("ffhq-64x64", 64),
)
