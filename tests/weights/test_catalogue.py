"""The catalogue's entries: complete, plain, loaded without torch, and of networks that have the published
names and shapes."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dgflow.store.identity import canonical_json
from dgflow.store.objects import check_key
from dgflow.weights.catalogue import CATALOGUE, catalogue_file
from dgflow.weights.sources import parse_source

OFFICIAL = Path(__file__).resolve().parents[1] / "goldens" / "networks" / "official_shapes.json"
MODULES = {
    "ADMEncoder": "networks.adm.encoder",
    "ADMUNet": "networks.adm.unet",
    "DhariwalUNet": "networks.edm.dhariwal",
    "DiT": "networks.dit.module",
    "EDMPrecond": "networks.edm.preconditioners",
    "InceptionV3": "networks.inception.module",
    "LSGMPrior": "networks.lsgm.prior",
    "NCSNpp": "networks.ncsnpp.module",
    "NVAE": "networks.lsgm.nvae",
    "SongUNet": "networks.edm.song",
}
# (entry, part) -> the official list of names and shapes
PUBLISHED = {
    ("edm-cifar10-32x32-uncond-vp", None): "edm-cifar10-32x32-uncond-vp",
    ("edm-ffhq-64x64-uncond-vp", None): "edm-ffhq-64x64-uncond-vp",
    ("edm-imagenet-64x64-cond-adm", None): "edm-imagenet-64x64-cond-adm",
    ("adm-imagenet-256x256-classifier", None): "guided-diffusion 256x256_classifier",
    ("adm-imagenet-256x256-diffusion", None): "guided-diffusion 256x256_diffusion (cond)",
    ("dit-xl-2-256", None): "DiT-XL/2 256",
    ("dg-cifar10-classifier", None): "DG classifier 32 (load_classifier img_resolution=32)",
    ("dg-cifar10-uncond", None): "DG discriminator uncond (load_discriminator channel=512)",
    ("dg-imagenet256-classifier", None): "DG_imagenet latent classifier (load_classifier)",
    ("lsgm-cifar10", "prior"): "LSGM CIFAR-10 best FID prior (180 latent channels, num_channels_dae 512)",
    ("lsgm-cifar10", "vae"): "LSGM CIFAR-10 best FID VAE (vae2)",
    (
        "soft-truncation-celeba64",
        None,
    ): "Soft-Truncation CELEBA ddpmpp (configs/vp/CELEBA/ddpmpp_fid.py; same keys for all "
    "vp/CELEBA/*ddpmpp*)",
}


def _build(network: dict[str, Any]) -> nn.Module:
    arguments = {
        key: _build(value) if key == "model" else value for key, value in network.items() if key != "class"
    }
    module = importlib.import_module(f"dgflow.{MODULES[network['class']]}")
    return getattr(module, network["class"])(**arguments)


def _networks(name: str) -> list[dict[str, Any]]:
    network = CATALOGUE[name].network
    return [] if not network else [network] if "class" in network else list(network.values())


@pytest.mark.parametrize(("entry", "part"), PUBLISHED)
def test_an_entry_s_network_has_the_published_names_and_shapes(entry: str, part: str | None) -> None:
    network = CATALOGUE[entry].network[part] if part else CATALOGUE[entry].network
    with torch.device("meta"):
        built = _build(network)
    official = json.loads(OFFICIAL.read_text())[PUBLISHED[entry, part]]
    assert {name: list(tensor.shape) for name, tensor in built.state_dict().items()} == official


@pytest.mark.parametrize("name", [name for name in CATALOGUE if not name.startswith("sd-vae")])
def test_every_entry_s_network_can_be_built(name: str) -> None:
    with torch.device("meta"):
        assert all(sum(1 for _ in _build(network).parameters()) for network in _networks(name))


@pytest.mark.parametrize("name", CATALOGUE)
def test_an_entry_is_plain_data_with_a_source_or_a_page_and_a_name_fit_for_the_root(name: str) -> None:
    entry = CATALOGUE[name]
    check_key(f"weights/{entry.name}/{entry.file_name}")
    canonical_json(entry.network)
    assert entry.page.startswith("https://") and entry.licence
    if entry.source:
        source = parse_source(entry.source)
        assert source.kind in ("https", "hf") and source.file_name == entry.file_name


def test_the_published_figures_are_those_of_the_papers() -> None:
    published = {name: entry.published_fid for name, entry in CATALOGUE.items() if entry.published_fid}
    assert published["edm-cifar10-32x32-uncond-vp"] == 2.03 and published["edm-cifar10-32x32-cond-vp"] == 1.82
    assert published["edm-ffhq-64x64-uncond-vp"] == 2.39 and published["lsgm-cifar10"] == 2.10
    assert published["soft-truncation-celeba64"] == 1.90 and published["dit-xl-2-256"] == 9.62


def test_a_name_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        ValueError, match="expected one of edm-cifar10-32x32-uncond-vp, .*; found 'edm-cifar10'"
    ):
        catalogue_file("edm-cifar10")


def test_the_catalogue_and_fetching_load_no_torch() -> None:
    program = "import sys, dgflow.weights.catalogue, dgflow.weights.fetch; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
