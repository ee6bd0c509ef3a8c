"""The list of network families, one line per family."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dgflow.networks.adm.spec import ADMEncoder, ADMUNet
from dgflow.networks.ddpm.spec import DDPMUNet
from dgflow.networks.discriminator.spec import Discriminator
from dgflow.networks.dit.spec import DiT
from dgflow.networks.edm.spec import DhariwalUNet, SongUNet
from dgflow.networks.edm2.spec import EDM2UNet
from dgflow.networks.edm2.vae_spec import EDM2VAE
from dgflow.networks.inception.spec import InceptionV3
from dgflow.networks.lsgm.spec import NVAE, LSGMPrior
from dgflow.networks.mixture.spec import MixtureRatio, MixtureScore
from dgflow.networks.ncsnpp.spec import NCSNpp
from dgflow.networks.own.spec import OwnDenoiser, OwnFeatures
from dgflow.networks.perceptron.spec import Perceptron
from dgflow.networks.roles import AutoencoderSpec, ScoreNetworkSpec
from dgflow.networks.stable_diffusion.spec import StableDiffusionVAE
from dgflow.specs.network import NetworkSpec
from dgflow.specs.step import Weights

FAMILIES: tuple[type[NetworkSpec], ...] = (
    *(SongUNet, DhariwalUNet),
    EDM2UNet,
    *(ADMUNet, ADMEncoder, Discriminator),
    Perceptron,
    DiT,
    NCSNpp,
    *(LSGMPrior, NVAE),
    DDPMUNet,
    *(OwnDenoiser, OwnFeatures),
    *(MixtureScore, MixtureRatio),
    *(StableDiffusionVAE, EDM2VAE),
    InceptionV3,
)


Role = TypeVar("Role", bound=NetworkSpec)


def names(role: type[Role], separator: str = ", ", having: Callable[[type[Role]], bool] = bool) -> str:
    """Name the families with a role, for messages."""
    kept = (family for family in FAMILIES if issubclass(family, role) and having(family))
    return separator.join(family.__name__ for family in kept)


def autoencoder_of(weights: Weights) -> AutoencoderSpec:
    """The autoencoder of these weights. Raises ValueError for weights of another kind of network."""
    network = weights.step.network
    if not isinstance(network, AutoencoderSpec):
        raise ValueError(
            f"expected the weights of an autoencoder ({names(AutoencoderSpec, ' or ')}), found "
            f"{weights.step.kind} of {type(network).__name__}"
        )
    return network


def of_latents(score: Weights) -> bool:
    """True for a score network whose samples are latents for a decoder, not images."""
    return score.step.sees_latents or score_network(score).gives_latents


def score_network(weights: Weights) -> ScoreNetworkSpec:
    """The score network of these weights. Raises ValueError for weights of another kind of network."""
    network = weights.step.architecture
    if not isinstance(network, ScoreNetworkSpec):
        raise ValueError(
            f"score: expected a score network ({names(ScoreNetworkSpec)}), found {weights.step.kind} of "
            f"{type(network).__name__}"
        )
    return network
