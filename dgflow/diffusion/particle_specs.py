"""Specs of selections among several particles per sample, for recipes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field

from dgflow.diffusion.guidance_specs import Guidance
from dgflow.diffusion.ranges import ROUNDING
from dgflow.diffusion.restart_specs import Restart
from dgflow.diffusion.sampler_specs import SamplerSpec
from dgflow.diffusion.selection_specs import SelectionSpec
from dgflow.specs.step import Weights

if TYPE_CHECKING:
    from dgflow.diffusion.selection.run import Run, Selected
    from dgflow.specs.bound import Bound


def _several(count: int) -> int:
    if not 2 <= count <= 1024:
        raise ValueError(
            f"expected 2 to 1,024 particles per sample, found {count}"
            + ": one is the plain sampler, without a selection" * (count == 1)
        )
    return count


Several = Annotated[int, AfterValidator(_several)]
"""A number of particles per sample."""


def _different(levels: Sequence[float]) -> Sequence[float]:
    if len(set(levels)) < len(levels):
        raise ValueError(
            f"expected different noise levels, found {', '.join(f'{level:g}' for level in levels)}"
        )
    return levels


Levels = Annotated[tuple[Annotated[float, Field(gt=0)], ...], AfterValidator(_different)]
"""Noise levels without duplicates."""


class BestOf(SelectionSpec):
    """Best of n: keep the one of `count` samples with the largest log-ratio by `discriminator`.

    Any sampler and guidance can draw the candidates; all have the sample's class. The first candidate equals
    the sample drawn without a selection. The discriminator is evaluated at noise level 0, so a discriminator
    of clean images (`TrainDiscriminator(noise="none")`) fits best.

    The selection overshoots the data distribution towards the largest ratio: precision rises with `count`,
    and recall falls.
    """

    count: Several = 4

    def select(self, run: Run, start: int, stop: int, inputs: Bound) -> Selected:
        from dgflow.diffusion.selection.best_of import best_of

        del inputs
        return best_of(run, start, stop, self.count)

    def evaluations(self, sampler: SamplerSpec) -> tuple[float, float]:
        return self.count * sampler.nfe, self.count

    def check(self, where: str, sampler: SamplerSpec, score: Weights, guidance: tuple[Guidance, ...]) -> None:
        del score, guidance
        if sampler.block is not None:
            raise ValueError(
                f"{where}: expected a sampler that chooses step sizes per sample, found "
                f"shared_block={sampler.block}: omit shared_block"
            )

    @property
    def title(self) -> str:
        return f"best of {self.count}"

    def toy(self) -> Self:
        return self.model_copy(update={"count": _few(self.count)})


class Particles(SelectionSpec):
    """Particle filter (Liu et al. 2023): of `count` particles per sample, those with a large log-ratio
    replace the others between the sampler's steps, and one particle is kept at the end.

    Particles are weighted by the change of their log-ratio since the last resampling. They are resampled if
    their effective size, 1 / sum of squared weights, is below `share` of their number; always for a share of
    1.
    With the exact log-ratio, the weighted particles converge to the data distribution as their number grows.

    Args:
        count: number of particles; all have the sample's class. The first starts like the sample without a
            selection.
        at: positions at which weights are evaluated: "always", before every step except the first;
            "restarts", before every repetition of `Restart`; or the noise levels, each at the step that
            begins nearest to it.
        resampling: "systematic", or "multinomial" as published, which has more variance.
        churn: use the sampler's maximum churn in the step after a resampling, so that copies diverge even if
            the sampler's own noise does not separate them.
        keep: the final choice: "weight" draws a particle by weight; "best" takes the largest log-ratio, as
            published, which deviates from the data distribution like best of n.
    """

    asks_on_the_way: ClassVar[bool] = True

    count: Several = 4
    share: float = Field(default=0.5, gt=0, le=1)
    at: Literal["always", "restarts"] | Levels = "always"
    resampling: Literal["systematic", "multinomial"] = "systematic"
    churn: bool = True
    keep: Literal["weight", "best"] = "weight"

    def select(self, run: Run, start: int, stop: int, inputs: Bound) -> Selected:
        from dgflow.diffusion.selection.particles import Rule, particles

        del inputs
        assert run.path is not None
        rule = Rule(self.positions(run.path.levels), self.share, self.resampling, self.churn)
        return particles(run, run.path, start, stop, self.count, rule, self.keep)

    def positions(self, levels: Sequence[float]) -> frozenset[int]:
        """The positions of a path with these noise levels at which weights are evaluated before the move.

        Raises ValueError for a level outside the path's levels.
        """
        moves = range(len(levels) - 1)
        if self.at == "always":
            return frozenset(moves[1:])
        if self.at == "restarts":
            return frozenset(move for move in moves if levels[move + 1] == levels[move])
        _check_between("at", self.at, levels[-2], levels[0])
        return frozenset(
            min(moves, key=lambda move: abs(math.log(levels[move] / level))) for level in self.at
        )

    def evaluations(self, sampler: SamplerSpec) -> tuple[float, float]:
        return self.count * sampler.nfe, self.count * (1 + self._looks(sampler))

    def _looks(self, sampler: SamplerSpec) -> int:
        """The number of evaluations of weights before the end."""
        if isinstance(self.at, tuple):
            return len(self.at)
        return _repeats(sampler) if self.at == "restarts" else sampler.moves - 1

    def check(self, where: str, sampler: SamplerSpec, score: Weights, guidance: tuple[Guidance, ...]) -> None:
        del score, guidance
        if not sampler.has_path:
            raise ValueError(
                f"{where}: expected a sampler with steps fixed in advance, so that all particles are at one "
                f"noise level, found {type(sampler).__name__}: use Heun, or select with BestOf"
            )
        if self.at == "restarts" and not _repeats(sampler):
            raise ValueError(
                f'{where}.at: expected a sampler with restarts for "restarts", found '
                f'{type(sampler).__name__} without any: use Restart(restarts=...), or set at to "always" or '
                "to noise levels"
            )
        # A network may narrow the range, which `positions` reports.
        if isinstance(self.at, tuple) and sampler.widest_range is not None:
            _check_between(f"{where}.at", self.at, *sampler.widest_range)

    @property
    def title(self) -> str:
        return f"resampled among {self.count} particles"

    def toy(self) -> Self:
        # The sampler's toy may have neither restarts nor these levels.
        return self.model_copy(update={"count": _few(self.count), "at": "always"})


def _few(count: int) -> int:
    """A smaller count that stays distinct for counts that differ by a factor of 2, such as in arms of a
    recipe.
    """
    return max(2, count.bit_length())


def _check_between(where: str, levels: Sequence[float], low: float, high: float) -> None:
    """Raise ValueError for noise levels at which no step of a sampler begins."""
    if outside := [level for level in levels if not low * (1 - ROUNDING) <= level <= high * (1 + ROUNDING)]:
        raise ValueError(
            f"{where}: expected noise levels from {low:.4g} to {high:.4g}, the range of the sampler's steps, "
            f"found {', '.join(f'{level:g}' for level in outside)}"
        )


def _repeats(sampler: SamplerSpec) -> int:
    """The number of a sampler's restarts."""
    return sampler.repeats if isinstance(sampler, Restart) else 0
