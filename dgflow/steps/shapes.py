"""The shape of the images that a step gives."""

from __future__ import annotations

from typing import NamedTuple

from dgflow.steps.generate import Generate
from dgflow.steps.import_images import ImportImages
from dgflow.steps.step import Step


class DataShape(NamedTuple):
    image_size: int
    channels: int
    num_classes: int


def data_shape(step: Step) -> DataShape:
    """Side, channels and number of classes of `step`'s images.

    Raises:
        ValueError: the step gives no images.
    """
    if isinstance(step, ImportImages):
        return DataShape(step.image_size, step.channels, step.num_classes)
    if isinstance(step, Generate):
        real = getattr(step.score.step, "real", None)
        if real is not None:
            return data_shape(real.step)
    raise ValueError(f"expected a step that gives images (ImportImages or Generate), found {step.kind}")
