"""The shape of the images or latents that a step gives."""

from __future__ import annotations

from typing import NamedTuple

from dgflow.steps.generate import Generate
from dgflow.steps.import_images import ImportImages
from dgflow.steps.pretrained import Pretrained
from dgflow.steps.step import Step


class DataShape(NamedTuple):
    image_size: int
    channels: int
    num_classes: int


def data_shape(step: Step) -> DataShape:
    """Side, channels and number of classes of the images or latents of `step`.

    Raises:
        ValueError: the step gives neither.
    """
    if isinstance(step, ImportImages | Pretrained):
        return DataShape(step.image_size, step.channels, step.num_classes)
    if isinstance(step, Generate):
        score = step.score.step
        if isinstance(score, Pretrained):
            return data_shape(score)
        real = getattr(score, "real", None)
        if real is not None:
            return data_shape(real.step)
    raise ValueError(f"expected a step that gives images (ImportImages or Generate), found {step.kind}")
