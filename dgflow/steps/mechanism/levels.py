"""The noise levels that discriminators know, the samples that they were trained on, and the networks that run
if only logits are needed."""

from __future__ import annotations

from collections.abc import Sequence

from dgflow.diffusion.guidance_specs import DiscriminatorGuidance
from dgflow.specs.step import NetworkStep, Slice, Use, Weights
from dgflow.steps.guides import guide_uses, without_network
from dgflow.steps.judging.shared_samples import seen
from dgflow.steps.training.train_discriminator import TrainDiscriminator

USUAL = (0.0447, 80.0)
"""The levels of a discriminator that was trained elsewhere: those of guidance with its default window."""


def level_span(
    name: str, score: Weights, guides: Sequence[Weights], sigma_min: float | None, sigma_max: float | None
) -> tuple[float, float]:
    """Returns the noise levels to measure at: as given, else those that all `guides` were trained on;
    narrowed to those that the score network was trained for.

    Raises ValueError, naming the step, if none is left.
    """
    known = [
        weights.step.drawn_range if isinstance(weights.step, TrainDiscriminator) else USUAL
        for weights in guides
    ]
    low = max(low for low, _ in known) if sigma_min is None else sigma_min
    high = min(high for _, high in known) if sigma_max is None else sigma_max
    first, last = without_network(score).narrowed(low, high)
    if not 0 < first < last:
        raise ValueError(
            f"{name}: expected noise levels that the score network was trained for between sigma_min "
            f"{low:g} and sigma_max {high:g}, found none: its range is {first:g} to {last:g}"
        )
    return first, last


def forward_uses(term: DiscriminatorGuidance) -> list[tuple[NetworkStep, Use]]:
    """Returns the networks that a logit of a term runs, and how. The head of a member on shared features is
    counted with its gradient, which costs little."""
    return [(network, "forward" if use == "gradient" else use) for network, use in guide_uses(term)]


def two_or_more(part: Slice) -> Slice:
    """Returns the slice of a toy step, extended to the front if scaling has left one row."""
    return part.step[min(part.start, max(0, part.stop - 2)) : part.stop]


def seen_in_training(networks: Sequence[Weights], **parts: Slice) -> list[str]:
    """Returns a warning for each slice that has samples on which a network was trained. The warning names the
    slice's field and the network that was trained on most of the samples."""
    lines = []
    for field, part in parts.items():
        known, title = max((seen(weights, part), weights.step.title) for weights in networks)
        if known:
            lines.append(
                f"{field}: {title} was trained on {known:,} of the {part.rows:,} samples of "
                f"{part.title}, so that it looks better on them than it is; take others"
            )
    return lines
