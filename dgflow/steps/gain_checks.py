"""Checks of the inputs of Gain: the number of held-out images, and the score networks that fit them. No
torch."""

from __future__ import annotations

from dgflow.networks.families import score_network
from dgflow.specs.network import DataShape
from dgflow.specs.step import Slice, Weights

MOST_IMAGES = 2_048
"""The largest number of images that Gain is measured on, the first ones by index. The standard error of their
mean is 1/45 of the spread between images."""
MOST_BYTES = 2 * 2**30
"""Host memory of all workers for noisy and denoised images, in bytes: enough for 2,048 images of up to 64
pixels per side, or 170 of 256."""


def check_score(score: Weights, real: Slice, *, field: str) -> None:
    """Raises ValueError, naming `field`, for a score network that does not fit these real images or
    latents."""
    network = score_network(score)
    shape, known = real.step.shape, score.step.shape
    if known[:2] != shape[:2]:
        raise ValueError(
            f"{field}: expected a score network for the real ones' {shape.channels} channels of "
            f"{shape.image_size} pixels per side, found one for {known.channels} of {known.image_size}"
        )
    if (network.gives_latents or score.step.sees_latents) and not real.step.gives_latents:
        raise ValueError(
            f"{field}: expected a score network of images, as the real ones are, found one of latents: "
            "encode the real ones, with Encode(images=..., vae=...)"
        )
    if score.step.classes not in (0, shape.num_classes):
        raise ValueError(
            f"{field}: expected a score network without classes, or with the real ones' "
            f"{shape.num_classes}, whose labels it receives, found {score.step.classes} classes"
        )
    if score.step.classes:
        real.check_labelled("real", f"the score network ({field})", "take one with conditional=False")


def measured_images(held: int, shape: DataShape, levels: int) -> int:
    """Returns the number of images that Gain is measured on, out of `held` held-out ones."""
    each = 2 * 4 * levels * shape.values  # two float32 copies at every level
    return min(held, MOST_IMAGES, max(2, MOST_BYTES // each))
