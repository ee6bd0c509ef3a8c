"""Guidance as recipes list it: settings and the network that guides. Terms add up in the order of the list;
`ClassifierFree` is no term but another way to ask the score network."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from dgflow.diffusion.guidance_settings import ClassifierFree, ClassifierSettings, DiscriminatorSettings
from dgflow.specs.step import Weights

if TYPE_CHECKING:
    from torch import nn

    from dgflow.diffusion.classifier_guidance import ClassifierTerm
    from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
    from dgflow.diffusion.times import TimeMap


class DiscriminatorGuidance(DiscriminatorSettings):
    """The gradient of `discriminator`'s log-ratio; its settings are those of `DiscriminatorSettings`."""

    role: ClassVar[str] = "discriminator"  # of the network, and the name of its field

    discriminator: Weights

    @property
    def guide(self) -> Weights:
        """The network that guides."""
        return self.discriminator

    def build(self, network: nn.Module, time: TimeMap) -> DiscriminatorTerm:
        """The term of a loaded discriminator that takes `time`."""
        from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm

        return DiscriminatorTerm(network, self, time)


class ClassifierGuidance(ClassifierSettings):
    """The gradient of `classifier`'s log-probability; its settings are those of `ClassifierSettings`."""

    role: ClassVar[str] = "classifier"

    classifier: Weights

    @property
    def guide(self) -> Weights:
        return self.classifier

    def build(self, network: nn.Module, time: TimeMap) -> ClassifierTerm:
        """The term of a loaded classifier that takes `time`."""
        from dgflow.diffusion.classifier_guidance import ClassifierTerm

        return ClassifierTerm(network, self, time)


GuideTerm = DiscriminatorGuidance | ClassifierGuidance
Guidance = GuideTerm | ClassifierFree
