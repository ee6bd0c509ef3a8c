"""Which networks may guide which: what `Generate` checks when a recipe is built, before any work.

A guide sees the score network's own samples and labels, so that shapes have to be equal, and a guide with
classes has to know them all.
"""

from __future__ import annotations

from collections.abc import Iterable

from dgflow.diffusion.guidance_specs import (
    ClassifierFree,
    ClassifierGuidance,
    DiscriminatorGuidance,
    Guidance,
)
from dgflow.networks.families import names, score_network
from dgflow.networks.roles import ClassifierSpec, DiscriminatorSpec
from dgflow.specs.step import NetworkStep, Weights

FIELD = {ClassifierGuidance: "classifier", DiscriminatorGuidance: "discriminator"}


def guide_of(term: ClassifierGuidance | DiscriminatorGuidance) -> Weights:
    """The network that guides."""
    return term.classifier if isinstance(term, ClassifierGuidance) else term.discriminator


def title_of(term: Guidance) -> str:
    """What guides, for people."""
    return (
        "its null class"
        if isinstance(term, ClassifierFree)
        else guide_of(term).step.title.removeprefix("train-")
    )


def classes_of(step: NetworkStep) -> int:
    """Number of classes that a network is asked about or conditioned on, 0 for none."""
    return step.classes


def guides_classes(guidance: Iterable[Guidance]) -> list[int]:
    """Of every network that guides."""
    return [classes_of(guide_of(term).step) for term in guidance if not isinstance(term, ClassifierFree)]


def check_guides(score: Weights, guidance: tuple[Guidance, ...]) -> None:
    """Raises ValueError, with the field and what was expected, for networks that cannot play their parts
    together."""
    network = score_network(score)
    shape, classes = score.step.shape, score.step.classes
    if sum(isinstance(term, ClassifierFree) for term in guidance) > 1:
        raise ValueError("guidance: expected at most one ClassifierFree")
    before = 0
    for number, term in enumerate(guidance):
        where = f"guidance.{number}"
        if isinstance(term, ClassifierFree):
            if not network.has_null_class:
                raise ValueError(
                    f"{where}: classifier-free guidance needs a network with a null class (DiT), found "
                    f"{_kind(score)}"
                )
            continue
        weights = guide_of(term)
        _check_kind(f"{where}.{FIELD[type(term)]}", term, weights)
        found = weights.step.shape
        if (found.image_size, found.channels) != (shape.image_size, shape.channels):
            raise ValueError(
                f"{where}: expected a network for the score network's samples, {shape.channels} channels of "
                f"{shape.image_size} pixels a side, found one for {found.channels} of {found.image_size}"
            )
        known = weights.step.classes
        if known and known < classes:
            raise ValueError(
                f"{where}: expected a network that knows the {classes} classes of the score network, found "
                f"{known} classes"
            )
        if isinstance(term, DiscriminatorGuidance) and term.match_preceding_norm and before == 0:
            raise ValueError(
                f"{where}: match_preceding_norm has no term before it whose norm could be matched: list "
                "the classifier first"
            )
        before += 1


def _check_kind(where: str, term: Guidance, weights: Weights) -> None:
    network = weights.step.architecture
    if isinstance(term, DiscriminatorGuidance) and not isinstance(network, DiscriminatorSpec):
        raise ValueError(
            f"{where}: expected a TrainDiscriminator or a Pretrained {names(DiscriminatorSpec)}, found "
            f"{_kind(weights)}"
        )
    if isinstance(term, ClassifierGuidance) and not isinstance(network, ClassifierSpec):
        raise ValueError(
            f"{where}: expected a TrainClassifier or a Pretrained {names(ClassifierSpec)}, found "
            f"{_kind(weights)}"
        )


def _kind(weights: Weights) -> str:
    return f"{weights.step.kind} of {type(weights.step.network).__name__}"
