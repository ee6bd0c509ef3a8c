"""The official files: where they are, which network they fit, under which licence, and what was published
with them.

Promises facts that were looked up and nothing guessed: no checksum is listed, since none is known, and EDM's
    baseline pickles are left out,
since the arguments of their networks are not. Loads no torch, so that recipes can be planned with it.
    Fetching is left to `fetch` and
reading to `read`.
"""

from __future__ import annotations

from dgflow.weights import published_networks as networks
from dgflow.weights.entry import CatalogueFile, Format

__all__ = ["CATALOGUE", "CatalogueFile", "Format", "catalogue_file"]

_EDM = "https://nvlabs-fi-cdn.nvidia.com/edm"
_EDM_PAGE, _EDM_LICENCE = "https://github.com/NVlabs/edm", "CC BY-NC-SA 4.0"
_ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021"
_ADM_PAGE = "https://github.com/openai/guided-diffusion"
_DIT = "https://dl.fbaipublicfiles.com/DiT/models"
_FIDELITY = "https://github.com/toshas/torch-fidelity"
_PYTORCH_FID = "https://github.com/mseitzer/pytorch-fid"
_DRIVE = "https://drive.google.com"
_NONE = "none stated"


def _edm(
    data: str,
    network: networks.Network,
    size: int,
    classes: int = 0,
    fid: float | None = None,
    note: str = "",
) -> CatalogueFile:
    return CatalogueFile(
        name=f"edm-{data}",
        file_name=f"edm-{data}.pkl",
        source=f"{_EDM}/pretrained/edm-{data}.pkl",
        format="edm_pickle",
        network=network,
        licence=_EDM_LICENCE,
        page=_EDM_PAGE,
        image_size=size,
        classes=classes,
        published_fid=fid,
        fid_note=note,
    )


def _edm_pair(
    data: str,
    size: int,
    classes: int,
    channel_mult: list[int],
    dropout: float,
    fid: float | None = None,
    note: str = "",
) -> list[CatalogueFile]:
    """The vp and the ve network of one data set; what was published, of the former."""
    vp, ve = (networks.edm(size, classes, kind, channel_mult, dropout) for kind in ("vp", "ve"))
    return [_edm(f"{data}-vp", vp, size, classes, fid, note), _edm(f"{data}-ve", ve, size, classes)]


def _fid_reference(name: str, size: int) -> CatalogueFile:
    """`mu` and `sigma` of the training set's Inception features."""
    return CatalogueFile(
        name=f"fid-{name}",
        file_name=f"{name}.npz",
        source=f"{_EDM}/fid-refs/{name}.npz",
        format="npz",
        network={},
        licence=_EDM_LICENCE,
        page=_EDM_PAGE,
        image_size=size,
        classes=0,
    )


_ADM_REFERENCE = CatalogueFile(
    name="adm-reference-imagenet-256",
    file_name="VIRTUAL_imagenet256_labeled.npz",
    source=f"{_ADM}/ref_batches/imagenet/256/VIRTUAL_imagenet256_labeled.npz",
    format="npz",
    network={},
    licence="MIT",
    page=f"{_ADM_PAGE}/tree/main/evaluations",
    image_size=256,
    classes=0,
)


def _inception(publisher: str, source: str, format: Format, page: str) -> CatalogueFile:
    """The network that FID is measured with.

    All are TensorFlow's weights of 2015-12-05, under the licence that those were shared under.
    """
    return CatalogueFile(
        name=f"inception-2015-12-05{publisher}",
        file_name=source.rpartition("/")[2],
        source=source,
        format=format,
        network=networks.INCEPTION,
        licence="Apache 2.0",
        page=page,
        image_size=299,
        classes=0,
    )


def _adm(
    file: str,
    network: networks.Network,
    size: int,
    classes: int = 0,
    fid: float | None = None,
    note: str = "",
) -> CatalogueFile:
    return CatalogueFile(
        name=f"adm-imagenet-{file.replace('_', '-')}",
        file_name=f"{file}.pt",
        source=f"{_ADM}/{file}.pt",
        format="state_dict",
        network=network,
        licence="MIT",
        page=_ADM_PAGE,
        image_size=size,
        classes=classes,
        published_fid=fid,
        fid_note=note,
    )


def _dit(size: int, fid: float, note: str) -> CatalogueFile:
    return CatalogueFile(
        name=f"dit-xl-2-{size}",
        file_name=f"DiT-XL-2-{size}x{size}.pt",
        source=f"{_DIT}/DiT-XL-2-{size}x{size}.pt",
        format="dit",
        network=networks.dit_xl_2(size),
        licence="CC BY-NC 4.0",
        page="https://github.com/facebookresearch/DiT",
        image_size=size // 8,
        classes=1000,
        published_fid=fid,
        fid_note=note,
    )


def _vae(kind: str, commit: str) -> CatalogueFile:
    """The Stable Diffusion VAE that DiT's latents come from: 8 times smaller, 4 channels, scaled by 0.18215."""
    repo, file_name = f"stabilityai/sd-vae-ft-{kind}", "diffusion_pytorch_model.safetensors"
    return CatalogueFile(
        name=f"sd-vae-ft-{kind}",
        file_name=file_name,
        source=f"hf:{repo}/{file_name}@{commit}",
        format="safetensors",
        network=networks.STABLE_DIFFUSION_VAE,
        licence="MIT",
        page=f"https://huggingface.co/{repo}",
        image_size=256,
        classes=0,
    )


def _dg(
    name: str, file_name: str, drive_id: str, network: networks.Network, classes: int = 0
) -> CatalogueFile:
    """Discriminator Guidance's own files. They are on Google Drive, which answers programs with questions."""
    return CatalogueFile(
        name=f"dg-{name}",
        file_name=file_name,
        source=None,
        format="state_dict",
        network=network,
        licence=_NONE,
        page=f"{_DRIVE}/file/d/{drive_id}/view",
        image_size=32,
        classes=classes,
    )


_LSGM = CatalogueFile(
    name="lsgm-cifar10",
    file_name="checkpoint.pt",
    source=None,
    format="lsgm",
    network=networks.LSGM_CIFAR10,
    licence="NVIDIA Source Code License (non-commercial)",
    page=f"{_DRIVE}/drive/folders/16kbwAeDZyCu1YRCXAXeh-KRyq8M09Rb0 (cifar10, best FID: lsgm2)",
    image_size=32,
    classes=0,
    published_fid=2.10,
    fid_note="138 evaluations",
)
_SOFT_TRUNCATION = CatalogueFile(
    name="soft-truncation-celeba64",
    file_name="celeba_ddpmpp_fid_st.pth",
    source=None,
    format="soft_truncation",
    network=networks.SOFT_TRUNCATION_CELEBA,
    licence=_NONE,
    page=f"{_DRIVE}/drive/folders/1Wyk0ucFW-QDS_g1EcPm361LWWgWqJ6L_ (CelebA, DDPM++ VP FID with ST, "
    "whatever it is called there)",
    image_size=64,
    classes=0,
    published_fid=1.90,
    fid_note="131 evaluations",
)

_FILES = (
    *_edm_pair(
        "cifar10-32x32-uncond",
        32,
        0,
        [2, 2, 2],
        0.13,
        2.03,
        "35 evaluations, random seeds; 1.97 with EDM's seeds",
    ),
    *_edm_pair(
        "cifar10-32x32-cond",
        32,
        10,
        [2, 2, 2],
        0.13,
        1.82,
        "35 evaluations, random seeds; 1.79 with EDM's seeds",
    ),
    *_edm_pair("ffhq-64x64-uncond", 64, 0, [1, 2, 2, 2], 0.05, 2.39, "79 evaluations"),
    *_edm_pair("afhqv2-64x64-uncond", 64, 0, [1, 2, 2, 2], 0.25),
    _edm("imagenet-64x64-cond-adm", networks.EDM_IMAGENET_64, 64, 1000, 1.36, "EDM's best sampler"),
    _fid_reference("cifar10-32x32", 32),
    _fid_reference("ffhq-64x64", 64),
    _ADM_REFERENCE,
    _inception(
        "",
        f"{_FIDELITY}/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        "inception_pth",
        _FIDELITY,
    ),
    _inception(
        "-pytorch-fid",
        f"{_PYTORCH_FID}/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "inception_pth",
        _PYTORCH_FID,
    ),
    _inception(
        "-nvidia",
        "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
        "inception_torchscript",
        "https://github.com/NVlabs/stylegan2-ada-pytorch",
    ),
    _inception(
        "-openai",
        f"{_ADM}/ref_batches/classify_image_graph_def.pb",
        "inception_graph",
        f"{_ADM_PAGE}/tree/main/evaluations",
    ),
    _adm("64x64_classifier", networks.CLASSIFIER_64, 64),
    _adm("256x256_classifier", networks.CLASSIFIER_256, 256),
    _adm(
        "256x256_diffusion",
        networks.adm_unet_256(1000),
        256,
        1000,
        10.94,
        "without guidance; 4.59 with its classifier",
    ),
    _adm("256x256_diffusion_uncond", networks.adm_unet_256(None), 256),
    _dit(256, 9.62, "without guidance; 2.27 with cfg_scale 1.5"),
    _dit(512, 3.04, "with guidance"),
    _vae("ema", "8937891f91ef6e9946cb7cf1b2e0207b1d8180bf"),
    _vae("mse", "ad7ac2cf88578c68f660449f60fe9496f35a1cbf"),
    _dg(
        "cifar10-classifier",
        "32x32_classifier.pt",
        "1gb68C13-QOt8yA6ZnnS6G5pVIlPO7j_y",
        networks.CLASSIFIER_32,
    ),
    _dg(
        "cifar10-uncond",
        "discriminator_60.pt",
        "1Mf3F1yGfWT8bO0_iOBX-PWG3O-OLROE2",
        networks.discriminator(512, False),
    ),
    _dg(
        "cifar10-cond",
        "discriminator_250.pt",
        "1P1u7cz7kY1BJDPVrPNiFcksy_HCHY_bI",
        networks.discriminator(512, True),
        10,
    ),
    _dg(
        "imagenet256-classifier",
        "32x32_classifier.pt",
        "1yxjvfIW6HvLSJHACkC5-5U46Mny81SSI",
        networks.CLASSIFIER_LATENT,
    ),
    _dg(
        "imagenet256-dit",
        "discriminator_7.pt",
        "1-2ytbvo7yG2X3Z65XNugBhPRKangvZgg",
        networks.discriminator(384, True),
        1000,
    ),
    _LSGM,
    _SOFT_TRUNCATION,
)

CATALOGUE: dict[str, CatalogueFile] = {file.name: file for file in _FILES}


def catalogue_file(name: str) -> CatalogueFile:
    """The entry of that name. Raises ValueError, with the names there are, where there is none."""
    if name not in CATALOGUE:
        raise ValueError(f"expected one of {', '.join(CATALOGUE)}; found {name!r}")
    return CATALOGUE[name]
