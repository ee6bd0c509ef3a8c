"""The shape of the images or latents that a step gives, or that a network is for."""

from __future__ import annotations

from typing import NamedTuple

from dgflow.networks.autoencoders import vae_of
from dgflow.specs.step import NetworkStep, Slice, Step
from dgflow.steps.decode import Decode
from dgflow.steps.encode import Encode
from dgflow.steps.generate import Generate
from dgflow.steps.pretrained import Pretrained
from dgflow.steps.sources.import_images import ImportImages


class DataShape(NamedTuple):
    image_size: int
    channels: int
    num_classes: int


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
        latent = vae_of(step.vae).latent_shape(network_shape(step.vae.step).image_size)
        return DataShape(*latent, data_shape(step.images.step).num_classes)
    if isinstance(step, Decode):
        decoder = network_shape(step.vae.step)
        return DataShape(decoder.image_size, decoder.channels, data_shape(step.latents.step).num_classes)
    raise ValueError(
        "expected a step that gives images or latents (ImportImages, Generate, Encode or Decode), found "
        f"{step.kind}"
    )


def network_shape(step: NetworkStep) -> DataShape:
    """Of what a network sees or makes: its data's, or what a `Pretrained` says."""
    if isinstance(step, Pretrained):
        return DataShape(step.image_size, step.channels, step.num_classes)
    real = getattr(step, "real", None)
    if not isinstance(real, Slice):
        raise ValueError(
            f"expected a step that makes a network (Pretrained or a training), found {step.kind}"
        )
    return data_shape(real.step)


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
