"""Guidance as recipes list it: settings and the network that guides. Terms add up in the order of the list;
`ClassifierFree` is no term but another way to ask the score network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Discriminator, Tag, model_validator

from dgflow.diffusion.guidance_settings import (
    ClassifierFree,
    ClassifierSettings,
    Combine,
    DiscriminatorSettings,
)
from dgflow.specs.spec import LATER
from dgflow.specs.step import Weights

if TYPE_CHECKING:
    from torch import nn

    from dgflow.diffusion.classifier_guidance import ClassifierTerm
    from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
    from dgflow.diffusion.times import TimeMap


class DiscriminatorGuidance(DiscriminatorSettings):
    """The gradient of `discriminator`'s log-ratio; its settings are those of `DiscriminatorSettings`.

    A tuple of discriminators guides as an ensemble. `combine` makes one log-ratio of theirs: "logits", the
    mean (a product of experts), or "probabilities", the log-ratio of the mean probability (Kleger & Sartor,
    equation 3). Boost, window and `match_preceding_norm` act on the combined one. Members may differ in
    anything but the time, the samples and the classes that they know; those on the same frozen features share
    one pass through them.
    """

    role: ClassVar[str] = "discriminator"  # of the network, and the name of its field

    discriminator: Annotated[
        Annotated[Weights, Tag("one")] | Annotated[tuple[Weights, ...], Tag("several")],
        Discriminator(lambda value: "several" if isinstance(value, tuple | list) else "one"),
    ]
    combine: Annotated[Combine, LATER] = "logits"

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if not self.guides:
            raise ValueError("discriminator: expected one discriminator or more, found an empty tuple")
        if isinstance(self.discriminator, Weights) and self.combine != "logits":
            raise ValueError(
                f"expected combine={self.combine!r} with several discriminators, (a, b, ...), found one: "
                "leave combine out"
            )
        return self

    @property
    def guides(self) -> tuple[Weights, ...]:
        """The networks that guide."""
        return (self.discriminator,) if isinstance(self.discriminator, Weights) else self.discriminator

    def build(self, network: nn.Module, time: TimeMap) -> DiscriminatorTerm:
        """The term of a loaded discriminator that takes `time`, with a logit [B]; of a tuple, of a network
        that gives the logits of all [K, B]."""
        from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
        from dgflow.diffusion.ensembles import EnsembleLogRatio

        if isinstance(self.discriminator, Weights):
            return DiscriminatorTerm(network, self, time)
        return DiscriminatorTerm(EnsembleLogRatio(network, self.combine), self, time)


class ClassifierGuidance(ClassifierSettings):
    """The gradient of `classifier`'s log-probability; its settings are those of `ClassifierSettings`."""

    role: ClassVar[str] = "classifier"

    classifier: Weights

    @property
    def guides(self) -> tuple[Weights, ...]:
        return (self.classifier,)

    def build(self, network: nn.Module, time: TimeMap) -> ClassifierTerm:
        """The term of a loaded classifier that takes `time`."""
        from dgflow.diffusion.classifier_guidance import ClassifierTerm

        return ClassifierTerm(network, self, time)


GuideTerm = DiscriminatorGuidance | ClassifierGuidance
Guidance = GuideTerm | ClassifierFree
