"""The shape of the images or latents that a step gives, or that a network is for."""

from __future__ import annotations

from typing import NamedTuple

from dgflow.steps.generate import Generate
from dgflow.steps.import_images import ImportImages
from dgflow.steps.pretrained import Pretrained
from dgflow.steps.step import NetworkStep, Slice, Step


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
    raise ValueError(f"expected a step that gives images (ImportImages or Generate), found {step.kind}")


def network_shape(step: NetworkStep) -> DataShape:
    """Of what a network sees or makes: its data's, or what a `Pretrained` says."""
    if isinstance(step, Pretrained):
        return DataShape(step.image_size, step.channels, step.num_classes)
    real = getattr(step, "real", None)
    if not isinstance(real, Slice):
        raise ValueError(f"expected a step that makes a network (Pretrained or a training), found {step.kind}")
    return data_shape(real.step)
