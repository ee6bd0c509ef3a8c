"""CompareRefinements: methods to refine one frozen model, each with several settings, at equal cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from dgflow.specs.figures import Figure, Metric
from dgflow.specs.step import Result, ResultStep, SampleStep, Slice, Spread
from dgflow.steps.cost import Cost
from dgflow.steps.judging.evaluate import Evaluate
from dgflow.steps.judging.refinement_figures import refinement_figures
from dgflow.steps.judging.refinement_values import best, difference, front, rival
from dgflow.steps.judging.shared_samples import shared
from dgflow.store.identity import canonical_json

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore

COST = "sampling"
"""The quantity of `Cost` that is the x axis: operations per sample."""
FEW = 3  # methods in a title


class CompareRefinements(ResultStep):
    """Methods that refine one model, each with a few settings, compared by cost per sample.

    `selection` and `report` are the results of two `Evaluate` steps with the same arms and no sample in
    common; the second has a `Cost` beside it. For each method, the setting with the lowest FID in the
    selection is chosen, and its numbers are taken from the report. The gain of a method is its FID minus that
    of the `base`, which is a method too (such as the plain sampler with more steps). The base's setting is
    chosen in the selection among those that need no more operations per sample. Operations of trainings are
    shown, but not part of that comparison.

    The Pareto front of each metric is chosen in the selection too.

    Args:
        methods: the arms of every method, one for each of its settings; every arm belongs to one method.
        base: the method that the others are compared with.
    """

    selection: Result
    report: Result
    methods: dict[str, tuple[str, ...]] = Field(min_length=1)
    base: str

    @classmethod
    def of(
        cls,
        generate: Callable[..., SampleStep],
        sweeps: Mapping[str, Mapping[str, Mapping[str, Any]]],
        evaluate: Callable[..., Evaluate],
        *,
        samples: int,
        select_on: Sequence[int],
        report_on: Sequence[int],
        only: Sequence[str] | None = None,
    ) -> Self:
        """Returns the comparison of `sweeps`: by method and setting, the fields with which `generate` makes
        its samples. The first method is the base.

        Args:
            generate: the step that makes the samples, called with the field `seed` and those of the setting,
                as in `partial(dg.Generate, score=score)`.
            evaluate: `Evaluate` without its arms, as in `partial(dg.Evaluate, reference=..., features=...)`.
            samples: per arm and seed.
            select_on, report_on: the sampling seeds.
            only: the methods to compare with the base, by default all.

        Raises ValueError for an unknown method in `only`.
        """
        base, *others = sweeps
        wanted = others if only is None else only
        if unknown := [name for name in wanted if name not in sweeps]:
            raise ValueError(f"methods: expected some of {', '.join(others)}, found {', '.join(unknown)}")
        kept = {name: sweeps[name] for name in sweeps if name == base or name in wanted}
        arms = {f"{name}, {setting}": fields for name in kept for setting, fields in kept[name].items()}

        def over(seeds: Sequence[int]) -> dict[str, tuple[Slice, ...]]:
            return {
                name: tuple(generate(**fields, seed=seed)[:samples] for seed in seeds)
                for name, fields in arms.items()
            }

        reported = over(report_on)
        return cls(
            selection=evaluate(arms=over(select_on)).result(),
            report=evaluate(arms=reported, beside=(Cost(arms=reported).result(),)).result(),
            methods={name: tuple(f"{name}, {setting}" for setting in kept[name]) for name in kept},
            base=base,
        )

    @model_validator(mode="after")
    def _comparable(self) -> CompareRefinements:
        selection, report = (_evaluation(result) for result in (self.selection, self.report))
        arms = [arm for method in self.methods.values() for arm in method]
        for name, evaluation in (("selection", selection), ("report", report)):
            if sorted(arms) != sorted(evaluation.arms):
                raise ValueError(
                    f"{name}: expected an arm for every setting of every method, {', '.join(arms)}, found "
                    f"{', '.join(evaluation.arms)}"
                )
            if not all("fid" in measure.wanted for measure in evaluation.measures.values()):
                raise ValueError(f"{name}: expected fid among the metrics, by which settings are chosen")
        if not all(self.methods.values()):
            raise ValueError("methods: expected one arm or more of each, found a method without one")
        if self.base not in self.methods:
            raise ValueError(f"base: expected one of {', '.join(self.methods)}, found {self.base!r}")
        if COST not in report.columns:
            raise ValueError(
                "report: expected the cost of its arms, found none; give its Evaluate "
                "beside=(dg.Cost(arms=arms).result(),)"
            )
        for arm in arms:
            common = max(shared(a, b) for a in selection.arms[arm] for b in report.arms[arm])
            if common:
                raise ValueError(
                    f"arm {arm!r}: expected different samples to choose by and to report, found "
                    f"{common:,} in both; use other seeds for one of the two"
                )
        return self

    @property
    def title(self) -> str:
        others = [name for name in self.methods if name != self.base]
        methods = f"{len(others)} refinements" if len(others) > FEW else ", ".join(others) or "nothing else"
        return f"comparison of {self.base} and {methods}"

    @property
    def columns(self) -> Mapping[str, Metric]:
        return {**self.report.step.columns, "gain": Metric("FID less at equal cost", 2, False)}

    @property
    def file_bytes(self) -> int:
        return 200_000

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Returns JSON: `arms` of the report; `selection`, the metrics' means; by method `chosen`, `rivals`
        (the base's arm at equal cost) and `gains`; and by metric `fronts`."""
        del spread, store
        selection, report = (json.loads(inputs.result(name))["arms"] for name in ("selection", "report"))
        metrics = [name for name in self.report.step.quantities if name in next(iter(selection.values()))]
        means = {arm: {name: values[name]["mean"] for name in metrics} for arm, values in selection.items()}
        fids = {arm: values["fid"] for arm, values in means.items()}
        costs = {arm: values[COST]["mean"] for arm, values in report.items()}
        chosen = {name: best(arms, fids) for name, arms in self.methods.items()}
        rivals = {
            name: rival(self.methods[self.base], fids, costs, costs[arm]) for name, arm in chosen.items()
        }
        gains = {
            name: difference(report[rivals[name]]["fid"]["per_seed"], report[arm]["fid"]["per_seed"])
            for name, arm in chosen.items()
        }
        fronts = {
            name: front(
                {arm: (costs[arm], values[name]) for arm, values in means.items()},
                lower_is_better=self.report.step.quantities[name].lower_is_better,
            )
            for name in metrics
        }
        return canonical_json(
            {
                "arms": report,
                "selection": means,
                "chosen_on": next(iter(selection.values()))["seeds"],
                "chosen": chosen,
                "rivals": rivals,
                "gains": gains,
                "fronts": fronts,
            }
        ).encode()

    def compared(self, content: bytes) -> Mapping[str, Mapping[str, Any]]:
        """Returns the report's numbers of each method's chosen setting, and its FID minus that of the base at
        equal cost, by method."""
        found = json.loads(content)
        return {
            name: found["arms"][found["chosen"][name]] | {"gain": found["gains"][name]}
            for name in self.methods
        }

    def figures(self, content: bytes) -> Sequence[Figure]:
        found, columns = json.loads(content), self.report.step.columns
        return refinement_figures(found, self.methods, self.base, columns, COST)


def swept(
    parameter: str, values: Sequence[float], fields: Callable[[Any], Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Returns the settings of a method for `CompareRefinements.of`: the `fields` of each value of its main
    parameter, named after it, such as `weight 2`."""
    return {f"{parameter} {value:g}": fields(value) for value in values}


def _evaluation(result: Result) -> Evaluate:
    if not isinstance(result.step, Evaluate):
        raise ValueError(f"expected the result of an Evaluate, found that of {result.step.kind}")
    return result.step
