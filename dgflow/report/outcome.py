"""The result file of a step in presentable form: its arms as a table, and its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dgflow.engine.plan import StepPlan
from dgflow.engine.root import Root
from dgflow.report.layout import with_spread
from dgflow.specs.figures import Figure, Metric, Table, directions
from dgflow.specs.step import ResultStep, Step
from dgflow.store.objects import ObjectStore


@dataclass(frozen=True)
class Outcome:
    """A step that makes a result, and the content of its file."""

    step: ResultStep
    content: bytes

    @cached_property
    def arms(self) -> Mapping[str, Mapping[str, Any]]:
        """The arms that the result compares, by name."""
        return self.step.compared(self.content)

    @cached_property
    def figures(self) -> Sequence[Figure]:
        return self.step.figures(self.content)

    @property
    def plain(self) -> Any:
        """The content of a JSON file, None for a file of another format."""
        return json.loads(self.content) if self.step.suffix == ".json" else None

    @property
    def shown(self) -> dict[str, Metric]:
        """The quantities that at least one arm has, by key."""
        known = [name for name in self.step.columns if any(name in arm for arm in self.arms.values())]
        return {name: self.step.columns[name] for name in known}

    @property
    def table(self) -> Table | None:
        """The table of the arms: mean and spread over seeds of each quantity. None without arms, and for a
        step whose first figure is a table."""
        if not self.shown or (self.figures and isinstance(self.figures[0], Table)):
            return None
        heading = ["", *(metric.heading for metric in self.shown.values()), "seeds"]
        rows = [
            [name, *(self._cell(arm, key) for key in self.shown), _seeds(arm, self.shown)]
            for name, arm in self.arms.items()
        ]
        return Table("", heading, rows, note="; ".join(self._notes()))

    @property
    def tables(self) -> list[Table]:
        """The table of the arms, followed by the tables among the figures."""
        own = [] if self.table is None else [self.table]
        return own + [figure for figure in self.figures if isinstance(figure, Table)]

    @property
    def per_seed(self) -> list[list[str]]:
        """Rows per arm and seed: the arm, the seed, and each quantity as text."""
        rows = []
        for name, arm in self.arms.items():
            count = int(_seeds(arm, self.shown))
            seeds = arm.get("seeds", range(1, count + 1))
            for number in range(count):
                cells = (of_seed(metric, arm.get(key), number) for key, metric in self.shown.items())
                rows.append([name, "" if seeds[number] is None else str(seeds[number]), *cells])
        return rows

    def _cell(self, arm: Mapping[str, Any], key: str) -> str:
        return with_spread(arm[key], self.shown[key].decimals) if key in arm else ""

    def _notes(self) -> list[str]:
        seeds = max(int(_seeds(arm, self.shown)) for arm in self.arms.values())
        notes = [f"mean ± sample standard deviation over {seeds} seeds" if seeds > 1 else "one seed"]
        return [*notes, directions(self.shown.values())]


def outcome_of(step_plan: StepPlan, store: ObjectStore) -> Outcome | None:
    """Returns the outcome of a step with a presentable result file; None for any other step, and while the
    step is incomplete. Raises CorruptObject if the file is damaged."""
    step = step_plan.step
    if not isinstance(step, ResultStep) or not is_for_people(step) or not step_plan.complete:
        return None
    step_store = Root(store).step_store(step)
    return Outcome(step, step_store.read(step_store.receipt(step_plan.done[step_plan.wanted[0]])))


def is_for_people(step: ResultStep) -> bool:
    """Returns True for a step whose file an `Outcome` can show."""
    return step.suffix == ".json" or has_figures(step)


def has_figures(step: Step) -> bool:
    """Returns True for a step that describes figures of its file."""
    return isinstance(step, ResultStep) and type(step).figures is not ResultStep.figures


def _seeds(arm: Mapping[str, Any], shown: Mapping[str, Metric]) -> str:
    return str(max(len(arm[name]["per_seed"]) for name in shown if name in arm))


def of_seed(metric: Metric, value: Mapping[str, Any] | None, number: int) -> str:
    """Returns the value of one seed as text; empty if there is none, as for a quantity with one value for all
    seeds."""
    own = [] if value is None else value["per_seed"]
    return metric.shown(own[number]) if number < len(own) else ""
