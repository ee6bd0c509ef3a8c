"""Autoencoders, between images and the latents that some score networks work in.

All are asked in one way, for images in [-1, 1]: `encode` and `decode`, with the loaded network.
"""

from __future__ import annotations

from dgflow.networks.lsgm.spec import NVAE
from dgflow.networks.stable_diffusion.spec import StableDiffusionVAE
from dgflow.specs.step import Weights

VAE = StableDiffusionVAE | NVAE


def vae_of(weights: Weights) -> VAE:
    """The autoencoder that these are the weights of. Raises ValueError where they are another network's."""
    network = getattr(weights.step, "network", None)
    if not isinstance(network, VAE):
        raise ValueError(
            "expected the weights of an autoencoder (StableDiffusionVAE or NVAE), found "
            f"{weights.step.kind} of {type(network).__name__}"
        )
    return network
