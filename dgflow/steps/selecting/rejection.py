"""Rejection: the selection of samples by a discriminator's log-ratio along their paths."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from dgflow.diffusion.guidance_specs import Guidance
from dgflow.diffusion.sampler_specs import SamplerSpec
from dgflow.diffusion.selection_specs import SelectionSpec
from dgflow.specs.spec import PLACEMENT, plain
from dgflow.specs.step import Result, Weights
from dgflow.steps.guides import guides_title
from dgflow.steps.selecting.rejection_thresholds import RejectionThresholds

if TYPE_CHECKING:
    from dgflow.diffusion.paths import Path
    from dgflow.diffusion.selection.rejection import Rule
    from dgflow.diffusion.selection.run import Run, Selected
    from dgflow.diffusion.selection.thresholds import Thresholds
    from dgflow.specs.bound import Bound

_Part = Weights | SamplerSpec | tuple[Guidance, ...]

PASSES = 2.0  # per sample, in plans; published, with thresholds at 0.75: 64 evaluations instead of 35


class Rejection(SelectionSpec):
    """Samples continue along their path if they look real enough (DiffRS, Na et al. 2024, arXiv 2405.17880):
    a step from one noise level to the next is accepted with probability min(1, (L' / L) / M), where L is the
    density ratio, exp(log-ratio), and M the constant of `thresholds`.

    - `at="steps"`: every position after `min_backsteps` and up to `max_backsteps` is tested; with
      `min_backsteps=0` the latents are tested too. A rejected sample goes `backsteps` noise levels back by
      new noise, where its log-ratio is tested itself; with None it restarts. Restart intervals that it has
      already passed are not repeated, and an interval that it is inside is left.
    - `at="end"`: only the finished sample is tested, and it restarts if it is rejected. This is the test for
      a discriminator of clean images.

    With the exact log-ratio, thresholds that bound it, and samples that restart, accepted samples have the
    distribution of the real images. Steps back cost less, and are approximate.

    Args:
        thresholds: of a `RejectionThresholds` of the same system and discriminator.
        budget: evaluations of the score network, at least one pass. A sample that cannot finish within the
            budget is discarded and restarts with the whole budget, so that short paths are preferred. None
            for no limit.
        max_checks: log-ratios of one sample after which the run stops with an error.
    """

    thresholds: Result
    at: Literal["steps", "end"] = "steps"
    backsteps: int | None = Field(default=1, gt=0)
    min_backsteps: int = Field(default=0, ge=0)
    max_backsteps: int | None = Field(default=None, gt=0)  # last tested position; None: the end of the path
    budget: int | None = Field(default=None, gt=0)
    max_checks: Annotated[int, PLACEMENT, Field(gt=0)] = 10_000

    @model_validator(mode="after")
    def _check_options(self) -> Rejection:
        own = {"backsteps": 1, "min_backsteps": 0, "max_backsteps": None}
        given = [name for name, value in own.items() if getattr(self, name) != value]
        if self.at == "end" and given:
            raise ValueError(
                f'{given[0]}: expected none with at="end", where a rejected sample restarts, found '
                f"{getattr(self, given[0])}; leave it out"
            )
        if self.backsteps is not None and self.backsteps > self.min_backsteps + 1:
            raise ValueError(
                "backsteps: expected at most min_backsteps + 1, so that no sample goes back beyond its "
                f"latents, found {self.backsteps} with min_backsteps={self.min_backsteps}: set min_backsteps "
                f"to {self.backsteps - 1}"
            )
        if self.max_backsteps is not None and self.max_backsteps <= self.min_backsteps:
            raise ValueError(
                f"expected min_backsteps < max_backsteps, found {self.min_backsteps} and "
                f"{self.max_backsteps}: no step would be tested"
            )
        return self

    def check(self, where: str, sampler: SamplerSpec, score: Weights, guidance: tuple[Guidance, ...]) -> None:
        measured = self.thresholds.step
        if not isinstance(measured, RejectionThresholds):
            raise ValueError(
                f"{where}.thresholds: expected the result of RejectionThresholds, found that of a "
                f"{measured.kind}"
            )
        if not sampler.has_path:
            raise ValueError(
                f"{where}: expected a sampler with steps fixed in advance, so that samples can be "
                f"compared between steps, found {type(sampler).__name__}: use Heun, or select with BestOf"
            )
        if self.at == "steps" and not measured.knows_noise:
            raise ValueError(
                f"{where}.discriminator: expected a network of noisy samples, which are tested along their "
                f'path, found {self.discriminator.title}: test finished samples, with at="end"'
            )
        if self.budget is not None and self.budget < sampler.nfe:
            raise ValueError(
                f"{where}.budget: expected at least the {sampler.nfe} evaluations of one pass of "
                f"{type(sampler).__name__}, found {self.budget}"
            )
        if not self.tested(sampler.moves):
            raise ValueError(
                f"{where}.min_backsteps: expected fewer than the {sampler.moves} steps of "
                f"{type(sampler).__name__}, found {self.min_backsteps}: no step would be tested"
            )
        self._check_measured(where, measured, sampler, score, guidance)

    def _check_measured(
        self,
        where: str,
        measured: RejectionThresholds,
        sampler: SamplerSpec,
        score: Weights,
        guidance: tuple[Guidance, ...],
    ) -> None:
        """Raises ValueError for thresholds of another system or discriminator."""
        system = measured.system
        pairs = {
            "discriminator": (self.discriminator, measured.discriminator),
            "score network": (score, system.score),
            "sampler": (sampler, system.sampler),
            "guidance": (guidance, system.guidance),
        }
        for name, (own, other) in pairs.items():
            if plain(own) != plain(other):
                mine, its = _distinguished(own, other)
                raise ValueError(
                    f"{where}.thresholds: expected those of this step's {name}, {mine}, found those "
                    f"of {its}: measure RejectionThresholds on samples of the same Generate, without "
                    "selection, by the same discriminator"
                )

    @property
    def title(self) -> str:
        return "by rejection" + " of finished samples" * (self.at == "end")

    def evaluations(self, sampler: SamplerSpec) -> tuple[float, float]:
        # One log-ratio per test, and that of the finished sample.
        looks = len({*self.tested(sampler.moves), sampler.moves})
        return PASSES * sampler.nfe, PASSES * looks

    def tested(self, moves: int) -> range:
        """Returns the tested positions on a path of `moves` moves."""
        if self.at == "end":
            return range(moves, moves + 1)
        first = self.min_backsteps + 1 if self.min_backsteps else 0
        last = moves if self.max_backsteps is None else min(moves, self.max_backsteps)
        return range(first, last + 1)

    def select(self, run: Run, start: int, stop: int, inputs: Bound) -> Selected:
        from dgflow.diffusion.selection.chains import Chains
        from dgflow.diffusion.selection.thresholds import Thresholds

        assert run.path is not None
        content = json.loads(inputs.result("selection.thresholds"))
        rule = self.rule(run.path, Thresholds(content["again"], content["first"]))
        return Chains(run, rule, range(start, stop)).selected()

    def rule(self, path: Path, thresholds: Thresholds) -> Rule:
        """Returns the rule that accepts or rejects chains on `path`."""
        from dgflow.diffusion.selection.rejection import Rule

        tested = self.tested(len(path.levels) - 1)
        limits = {"budget": self.budget, "max_checks": self.max_checks}
        if self.at == "end":
            # The only test has no earlier log-ratio to compare with.
            return Rule(thresholds.again, thresholds.again, tested, None, **limits)
        return Rule(thresholds.first, thresholds.again, tested, self.backsteps, **limits)


def _distinguished(own: _Part, other: _Part) -> tuple[str, str]:
    """Returns readable names of two fields' values; for samplers, the fields in which they differ."""
    if not isinstance(own, SamplerSpec) or not isinstance(other, SamplerSpec):
        return _named(own), _named(other)
    if type(own) is not type(other):
        return type(own).__name__, type(other).__name__
    first, second = dict(own), dict(other)
    differ = [name for name in first if first[name] != second[name]]
    mine, its = (", ".join(f"{name}={each[name]!r}" for name in differ) for each in (first, second))
    return f"{type(own).__name__}({mine})", f"{type(other).__name__}({its})"


def _named(value: _Part) -> str:
    if isinstance(value, Weights):
        return f"{value.name} ({value.which})"
    if isinstance(value, tuple):
        return " and ".join(map(guides_title, value)) or "none"
    return type(value).__name__
