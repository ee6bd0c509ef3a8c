"""Published files of EDM2: averages of the weights, named by size, thousands of training images, and relative
length of the average. Listed are the files with the best published FID and FD_DINOv2, without guidance and
with each kind of guidance.

Latents of ImageNet-512 come from `edm2-vae`.
"""

from __future__ import annotations

from typing import Any

from dgflow.networks.edm2.spec import EDM2UNet
from dgflow.networks.edm2.vae_spec import EDM2VAE
from dgflow.networks.published import Published, PublishedFile
from dgflow.networks.stable_diffusion import published as stable_diffusion

EDM2_CHANNELS = {"xxs": 64, "xs": 128, "s": 192, "m": 256, "l": 320, "xl": 384, "xxl": 448}
"""`model_channels` of the published sizes."""

_SITE = "https://nvlabs-fi-cdn.nvidia.com/edm2/posthoc-reconstructions"
_FROM: Any = {"licence": "CC BY-NC-SA 4.0", "page": "https://github.com/NVlabs/edm2"}
_CLASSES = 1000


def edm2(size: str, *, latent: bool = False) -> EDM2UNet:
    """Return the network of a published size, "xxs" to "xxl"; `latent` for ImageNet-512.

    Raises ValueError for another size.
    """
    if size not in EDM2_CHANNELS:
        raise ValueError(f"expected one of the sizes {', '.join(EDM2_CHANNELS)}, found {size!r}")
    dropout = 0.1 if EDM2_CHANNELS[size] >= EDM2_CHANNELS["m"] else 0.0
    return EDM2UNet(model_channels=EDM2_CHANNELS[size], dropout=dropout, latent=latent)


def _file(data: str, name: str, fid: float | None = None, note: str = "") -> PublishedFile:
    """A published file. `name`: size, "uncond" for a network without classes, thousands of images, and length
    of the average.
    """
    file, size = f"edm2-{data}-{name}", name.partition("-")[0]
    latent = data == "img512"
    return PublishedFile(
        name=file,
        file_name=f"{file}.pkl",
        source=f"{_SITE}/{file}.pkl",
        format="edm_pickle",
        network={
            "": Published(
                edm2(size, latent=latent),
                64,
                channels=4 if latent else 3,
                num_classes=0 if "-uncond-" in name else _CLASSES,
            )
        },
        image_size=64,
        published_fid=fid,
        fid_note=note,
        **_FROM,
    )


def _reference(side: int) -> PublishedFile:
    """The reference: statistics of the training set's Inception features, and of DINOv2 features, which are
    not read.
    """
    return PublishedFile(
        name=f"fid-imagenet-{side}",
        file_name=f"img{side}.pkl",
        source=f"https://nvlabs-fi-cdn.nvidia.com/edm2/dataset-refs/img{side}.pkl",
        format="statistics_pickle",
        image_size=side,
        **_FROM,
    )


_PLAIN = "63 evaluations"
_BY = "126 evaluations, guided by {} at weight {}"
_DINO = "FD_DINOv2 {}, "
FILES = (
    _file("img512", "xs-2147483-0.135", 3.53, _PLAIN),
    _file("img512", "s-2147483-0.130", 2.56, _PLAIN),
    _file("img512", "m-2147483-0.100", 2.25, _PLAIN),
    _file("img512", "l-1879048-0.085", 2.06, _PLAIN),
    _file("img512", "xl-1342177-0.085", 1.96, _PLAIN),
    _file("img512", "xxl-0939524-0.070", 1.91, _PLAIN),
    _file("img64", "s-1073741-0.075", 1.58, _PLAIN),
    _file("img64", "m-2147483-0.060", 1.43, _PLAIN),
    _file("img64", "l-1073741-0.040", 1.33, _PLAIN),
    _file("img64", "xl-0671088-0.040", 1.33, _PLAIN),
    # Classifier-free guidance, by an unconditional network with the same average length.
    _file("img512", "xs-2147483-0.045", 2.91, _BY.format("xs-uncond-2147483-0.045", 1.4)),
    _file("img512", "xs-uncond-2147483-0.045"),
    _file("img512", "s-2147483-0.025", 2.23, _BY.format("xs-uncond-2147483-0.025", 1.4)),
    _file("img512", "xs-uncond-2147483-0.025"),
    _file(
        "img512",
        "xxl-0939524-0.015",
        1.81,
        _BY.format("xs-uncond-2147483-0.015", 1.2) + "; " + _DINO.format(33.09) + "weight 1.7",
    ),
    _file("img512", "xs-uncond-2147483-0.015"),
    # Autoguidance, by a smaller, less trained network.
    _file("img512", "s-2147483-0.070", 1.34, _BY.format("xs-0134217-0.125", 2.1)),
    _file("img512", "xs-0134217-0.125"),
    _file("img512", "xxl-0939524-0.075", 1.25, _BY.format("m-0268435-0.155", 2.05)),
    _file("img512", "m-0268435-0.155"),
    _file("img512", "s-uncond-2147483-0.070", 3.86, _BY.format("xs-uncond-0134217-0.110", 2.85)),
    _file("img512", "xs-uncond-0134217-0.110"),
    _file("img64", "s-1073741-0.045", 1.01, _BY.format("xs-0134217-0.110", 1.7)),
    _file("img64", "xs-0134217-0.110"),
    # The best files by FD_DINOv2.
    _file("img512", "s-2147483-0.190", note=_DINO.format(68.64) + _PLAIN),
    _file("img512", "xxl-0939524-0.150", note=_DINO.format(42.84) + _PLAIN),
    _file("img512", "s-2147483-0.120", note=_DINO.format(36.67) + _BY.format("xs-0134217-0.165", 2.45)),
    _file("img512", "xs-0134217-0.165"),
    _file("img512", "xxl-0939524-0.130", note=_DINO.format(24.18) + _BY.format("m-0268435-0.205", 2.3)),
    _file("img512", "m-0268435-0.205"),
    _file("img64", "s-1073741-0.105", note=_DINO.format(31.85) + _BY.format("xs-0134217-0.175", 2.2)),
    _file("img64", "xs-0134217-0.175"),
    PublishedFile(
        name="edm2-vae",
        file_name=stable_diffusion.MSE.file_name,
        source=stable_diffusion.MSE.source,
        format=stable_diffusion.MSE.format,
        network={"": Published(EDM2VAE(), 512)},
        licence=stable_diffusion.MSE.licence,
        page=stable_diffusion.MSE.page,
        image_size=512,
    ),
    _reference(64),
    _reference(512),
)
