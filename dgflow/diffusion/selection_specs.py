"""Selections as recipes name them: which of the samples that a sampler draws, or of their parts on the way,
are kept.

A selection looks at samples with a discriminator's log-ratio. What it does when it runs is in
`dgflow.diffusion.selection`.
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
    """How samples are selected. A selection makes whole shards, so that it can regroup the samples that are
    on their way."""

    asks_on_the_way: ClassVar[bool] = False
    """True where `discriminator` is asked about noisy samples, not about finished ones alone."""

    discriminator: Weights

    @abstractmethod
    def select(self, run: Run, start: int, stop: int, inputs: Bound) -> Selected:
        """The samples [start, stop).

        Args:
            run: the loaded system that samples are drawn from.
            inputs: of the step; results that the selection names have paths like `selection.thresholds`.

        Raises ValueError for a sampler or system that it cannot select from.
        """

    @abstractmethod
    def evaluations(self, sampler: SamplerSpec) -> tuple[float, float]:
        """About how many evaluations a sample takes, as far as can be known: (of the score network, of
        `discriminator`, forward)."""

    def check(self, where: str, sampler: SamplerSpec, score: Weights, guidance: tuple[Guidance, ...]) -> None:
        """Raise ValueError, naming the field, for a sampler, score network or guidance that it cannot select
        from."""
        del where, sampler, score, guidance

    @property
    def title(self) -> str:
        """For people, as in "by rejection"."""
        return "selected"

    def in_smoke(self, smoke: SmokeRun, factor: int) -> Self:
        return super().in_smoke(smoke, factor).toy()

    def toy(self) -> Self:
        """Its form in smoke runs, with few samples that are drawn for one."""
        return self
