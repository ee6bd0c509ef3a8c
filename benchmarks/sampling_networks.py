"""The systems that `sampling.py` measures: networks of published sizes with random weights, and the numbers
of evaluations in their schedules."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.heun import edm_sigmas
from dgflow.diffusion.times import tau_from_sigma
from dgflow.networks.adm.encoder import ADMEncoderModule
from dgflow.networks.adm.unet import ADMUNetModule
from dgflow.networks.discriminator.module import DiscriminatorModule
from dgflow.networks.dit.module import SIZES, DiTModule
from dgflow.networks.edm.preconditioners import VPPrecond
from dgflow.networks.edm.song import SongUNetModule
from dgflow.networks.perceptron.module import PerceptronModule

TITLES = {
    "edm": "EDM CIFAR-10, Heun 18 steps",
    "adm": "ADM ImageNet-64, DDPM 250 steps",
    "dit": "DiT-S/2 latents, DDPM 250 steps",
    "adm256": "ADM ImageNet-256, DDPM 250 steps",
    "dit-xl": "DiT-XL/2 latents, DDPM 250 steps",
    "toy": "a toy of EDM's networks, Heun 18 steps",
}
SHAPES = {
    "edm": (3, 32, 32),
    "adm": (3, 64, 64),
    "dit": (4, 32, 32),
    "adm256": (3, 256, 256),
    "dit-xl": (4, 32, 32),
    "toy": (3, 8, 8),
}
OF_EDM = ("edm", "toy")
ADM: dict[str, dict[str, Any]] = {
    "adm": {
        "image_size": 64,
        "model_channels": 192,
        "num_res_blocks": 3,
        "attention_resolutions": (2, 4, 8),
        "channel_mult": (1, 2, 3, 4),
        "new_attention_order": True,
    },
    "adm256": {
        "image_size": 256,
        "model_channels": 256,
        "num_res_blocks": 2,
        "attention_resolutions": (8, 16, 32),
        "channel_mult": (1, 1, 2, 2, 4, 4),
    },
}
CLASSIFIER_DEPTH = {"adm": 4, "adm256": 2}


def schedule_counts(system: str) -> tuple[int, int, int]:
    """Returns the numbers of evaluations in the published schedule: of the score network, of the
    discriminator within its window, and of a discriminator that is evaluated in every step."""
    if system in OF_EDM:
        sigmas = edm_sigmas(18)[:-1]
        return 2 * len(sigmas) - 1, sum(tau_from_sigma(sigma) >= 0.01 for sigma in sigmas), len(sigmas)
    timesteps = DiscreteSchedule.of(respacing="250").timestep_map
    return len(timesteps), sum(timestep > 100 for timestep in timesteps), len(timesteps)


def networks(system: str) -> tuple[nn.Module, DiscriminatorModule]:
    """Returns score network and discriminator of published size; layers that start at or close to zero are
    reinitialised, so that outputs are not all equal."""
    torch.manual_seed(0)
    classes = None if system in OF_EDM else 1000
    if system == "toy":
        score: nn.Module = VPPrecond(SongUNetModule(8, 3, model_channels=16, channel_mult=(1,), num_blocks=1))
        features = None
    elif system == "edm":
        score = VPPrecond(SongUNetModule(32, 3, augment_dim=9, channel_mult=(2, 2, 2)))
        features = _classifier(32, 3, (1, 2, 4), 4, (1, 2, 4))
    elif system in ADM:
        adm = ADM[system]
        score = ADMUNetModule(**adm, out_channels=6, num_classes=classes)
        mult, where = adm["channel_mult"], adm["attention_resolutions"]
        features = _classifier(adm["image_size"], 3, mult, CLASSIFIER_DEPTH[system], where)
    else:
        score = DiTModule(**SIZES["DiT-XL/2" if system == "dit-xl" else "DiT-S/2"])
        features = _classifier(32, 4, (1, 2, 3), 2, (1, 2, 4))
    if features is None:
        head: nn.Module = PerceptronModule(image_size=8, in_channels=3, width=32, layers=2)
    else:
        head = ADMEncoderModule(
            image_size=features.feature_size,
            in_channels=features.feature_channels,
            model_channels=128,
            out_channels=1,
            num_res_blocks=2,
            attention_resolutions=(1,),
            channel_mult=(1,),
            num_classes=classes,
        )
    discriminator = DiscriminatorModule(features, head)
    with torch.no_grad():
        for parameter in (*score.parameters(), *discriminator.parameters()):
            usual = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.0
            if parameter.ndim > 1 and parameter.std() < 0.1 * usual:
                parameter.normal_(std=usual)
    return score.eval(), discriminator.eval()


def _classifier(
    size: int, channels: int, mult: tuple[int, ...], depth: int, where: tuple[int, ...]
) -> ADMEncoderModule:
    return ADMEncoderModule(
        image_size=size,
        in_channels=channels,
        model_channels=128,
        out_channels=1000,
        num_res_blocks=depth,
        attention_resolutions=where,
        channel_mult=mult,
    )
