"""Specs of selections, for recipes.

A selection keeps some of a sampler's samples, or of their intermediate states, by a discriminator's
log-ratio. `dgflow.diffusion.selection` implements selections.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Self

from dgflow.diffusion.guidance_specs import Guidance
from dgflow.diffusion.sampler_specs import SamplerSpec
from dgflow.specs.spec import SmokeRun, Spec
from dgflow.specs.step import Weights

if TYPE_CHECKING:
    from dgflow.diffusion.selection.run import Run, Selected
    from dgflow.specs.bound import Bound


class SelectionSpec(Spec, ABC):
    """Base of all selections. A selection makes whole shards, so that it can regroup samples during
    sampling.
    """

    asks_on_the_way: ClassVar[bool] = False
    """True if `discriminator` is evaluated on noisy samples, not only on finished ones."""

    discriminator: Weights

    @abstractmethod
    def select(self, run: Run, start: int, stop: int, inputs: Bound) -> Selected:
        """Make the samples [start, stop).

        Args:
            run: the loaded system from which samples are drawn.
            inputs: inputs of the step; results that the selection names have paths like
                `selection.thresholds`.

        Raises ValueError for an unsupported sampler or system.
        """

    @abstractmethod
    def evaluations(self, sampler: SamplerSpec) -> tuple[float, float]:
        """Approximate evaluations per sample, as far as known: (score network, `discriminator` forward)."""

    def check(self, where: str, sampler: SamplerSpec, score: Weights, guidance: tuple[Guidance, ...]) -> None:
        """Raise ValueError, naming the field, for an unsupported sampler, score network or guidance."""
        del where, sampler, score, guidance

    @property
    def title(self) -> str:
        """Title for display, such as "by rejection"."""
        return "selected"

    def in_smoke(self, smoke: SmokeRun, factor: int) -> Self:
        return super().in_smoke(smoke, factor).toy()

    def toy(self) -> Self:
        """The selection in smoke runs, with few draws per sample."""
        return self
