"""GuidedArms: the base of steps that compare the guidance of one score network on real images."""

from __future__ import annotations

from abc import ABC

from pydantic import Field

from dgflow.diffusion.gain_curve import GainChoice
from dgflow.diffusion.guidance_specs import Guidance, GuideTerm
from dgflow.specs.bound import Bound
from dgflow.specs.step import ResultStep, Slice, Weights
from dgflow.steps.gain_choices import by_gain, check_gain
from dgflow.steps.guides import check_guides, guides_of, received_classes


class GuidedArms(ResultStep, ABC):
    """A score network, the guidance terms of each arm, and the real images on which the arms are evaluated.
    An arm without terms is the score network alone."""

    score: Weights
    arms: dict[str, tuple[Guidance, ...]] = Field(min_length=1)
    real: Slice

    def check_arms(self) -> None:
        """Raises ValueError, naming the arm, for networks that do not fit each other or the labels of the
        images."""
        known = self.real.step.shape.num_classes
        for name, terms in self.arms.items():
            try:
                check_guides(self.score, terms)
                check_gain(self.score, terms)
                self.check_terms(terms)
                if (classes := received_classes(self.score, terms)) not in (0, known):
                    raise ValueError(
                        f"expected networks without classes, or with the {known} of the real images, "
                        f"whose labels they receive, found {classes} classes"
                    )
            except ValueError as error:
                raise ValueError(f"arm {name!r}: {error}") from None

    def check_terms(self, terms: tuple[Guidance, ...]) -> None:
        """Raises ValueError for guidance that the step cannot measure."""

    @property
    def guides(self) -> dict[str, GuideTerm]:
        """The terms that have networks, by the path of the field that names them."""
        return {
            path: term
            for name, terms in self.arms.items()
            for path, term in guides_of(f"arms.{name}", terms).items()
        }

    @property
    def networks(self) -> list[Weights]:
        """The score network and all networks that guide it."""
        return [self.score, *(weights for term in self.guides.values() for weights in term.guides)]

    def choices(self, inputs: Bound) -> dict[str, GainChoice]:
        """Returns Gain's choices, by the path of the term."""
        return by_gain(self.guides, inputs)
