"""The shape of the images or latents that a step gives, or that a network is for."""

from __future__ import annotations

from dgflow.networks.families import autoencoder_of
from dgflow.specs.network import DataShape
from dgflow.specs.step import NetworkStep, Slice, Step
from dgflow.steps.decode import Decode
from dgflow.steps.encode import Encode
from dgflow.steps.generate import Generate
from dgflow.steps.sources.import_images import ImportImages


def data_shape(step: Step) -> DataShape:
    """Side, channels and number of classes of the images or latents of `step`.

    Raises:
        ValueError: the step gives neither.
    """
    if isinstance(step, ImportImages):
        return DataShape(step.image_size, step.channels, step.num_classes)
    if isinstance(step, Generate):
        return network_shape(step.score.step)
    if isinstance(step, Encode):
        latent = autoencoder_of(step.vae).latent_shape(network_shape(step.vae.step).image_size)
        return DataShape(*latent, data_shape(step.images.step).num_classes)
    if isinstance(step, Decode):
        decoder = network_shape(step.vae.step)
        return DataShape(decoder.image_size, decoder.channels, data_shape(step.latents.step).num_classes)
    raise ValueError(
        "expected a step that gives images or latents (ImportImages, Generate, Encode or Decode), found "
        f"{step.kind}"
    )


def network_shape(step: NetworkStep) -> DataShape:
    """The data that a network sees or makes."""
    return step.shape


def gives_latents(step: Step) -> bool:
    """Whether the samples of `step` are latents, and not images."""
    return isinstance(step, Encode) or (isinstance(step, Generate) and step.latent)


def check_images(part: Slice) -> None:
    """Raises ValueError for a slice of latents, and of what gives neither images nor latents."""
    data_shape(part.step)
    if gives_latents(part.step):
        raise ValueError(
            f"expected images, found the latents of {part.step.title}: decode them first, with "
            "Decode(latents=..., vae=...)"
        )
