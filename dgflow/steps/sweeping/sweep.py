"""Sweep: the results of one recipe with several combinations of its parameters, side by side; and
SelectedSweep, a sweep in which the best combination was chosen and measured again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from dgflow.specs.figures import Figure, Table
from dgflow.specs.spec import Spec
from dgflow.specs.step import Result, ResultStep, Spread
from dgflow.steps.sweeping.sweep_figures import sweep_figures
from dgflow.steps.sweeping.sweep_table import SweepTable, options_text, settings_text, sweep_table
from dgflow.store.identity import canonical_json

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore

SELECTION, REPORT = "Selection: measured to choose, not the result", "Result: the choice on other seeds"
"""The headings of the two tables of a selection."""


class Combination(Spec):
    """A recipe's result with these values of its swept parameters."""

    settings: dict[str, Any]
    result: Result


class Sweep(ResultStep):
    """The arms that each combination's result compares, in one table.

    All combinations are one graph, so shared steps run once. `over` are parameters whose values are
    repetitions: the table averages over them. `zipped` means that the values were paired instead of combined
    in a grid.
    """

    combinations: tuple[Combination, ...]
    over: tuple[str, ...] = ()
    zipped: bool = False

    @model_validator(mode="after")
    def _comparable(self) -> Sweep:
        if not self.combinations:
            raise ValueError("expected one combination of parameters or more, found none")
        names = list(self.combinations[0].settings)
        for each in self.combinations:
            if list(each.settings) != names:
                raise ValueError(f"expected values of {names} in every combination, found {each.settings}")
            check_compares(each.result.step)
        if unknown := [name for name in self.over if name not in names]:
            raise ValueError(f"expected parameters of {names} to average over, found {unknown}")
        return self

    @property
    def parameters(self) -> list[str]:
        """The names of the swept parameters."""
        return list(self.combinations[0].settings)

    @property
    def title(self) -> str:
        return f"sweep over {options_text(self.parameters)}"

    @property
    def groups(self) -> dict[str, str]:
        """The text of each result's combination, by the path of the result's field."""
        return {
            f"combinations.{number}.result": settings_text(each.settings)
            for number, each in enumerate(self.combinations)
        }

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Returns the arms of every combination as JSON, with their quantities."""
        del spread, store
        compared = [
            each.result.step.compared(inputs.result(f"combinations.{number}.result"))
            for number, each in enumerate(self.combinations)
        ]
        quantities = self.combinations[0].result.step.columns
        content = {
            "parameters": self.parameters,
            "over": self.over,
            "zipped": self.zipped,
            "quantities": [[name, asdict(metric)] for name, metric in quantities.items()],
            "combinations": [
                {"settings": each.settings, "arms": [[name, dict(arm)] for name, arm in arms.items()]}
                for each, arms in zip(self.combinations, compared, strict=True)
            ],
        }
        return canonical_json(content).encode()

    def table(self, content: bytes) -> SweepTable:
        """Returns the rows of the file's table, and the best of them."""
        return sweep_table(json.loads(content))

    def figures(self, content: bytes) -> Sequence[Figure]:
        return sweep_figures(self.table(content))


class SelectedSweep(ResultStep):
    """A sweep on the seeds `chosen_on`, in which the combination `choice` is best by the quantity `by`; and
    the same combination on other seeds, whose results are reported."""

    selection: Result
    report: Result
    chosen_on: tuple[int, ...]
    reported_on: tuple[int, ...]
    by: str
    choice: dict[str, Any]

    @property
    def title(self) -> str:
        return f"sweep, chosen by {self.by}: {settings_text(self.choice)}"

    @property
    def groups(self) -> dict[str, str]:
        """The stage of each sweep, selection or result, by the path of its field."""
        return {"selection": "selection", "report": "report"}

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Returns both sweeps as JSON, with the choice."""
        del spread, store
        content = {
            "choice": self.choice,
            "by": self.by,
            "chosen_on": self.chosen_on,
            "reported_on": self.reported_on,
            "selection": json.loads(inputs.result("selection")),
            "report": json.loads(inputs.result("report")),
        }
        return canonical_json(content).encode()

    def tables(self, content: bytes) -> tuple[SweepTable, SweepTable]:
        """Returns the table of the selection, and the table of the chosen combination."""
        data: Mapping[str, Any] = json.loads(content)
        seeds = {name: ", ".join(map(str, data[name])) for name in ("chosen_on", "reported_on")}
        selection = sweep_table(
            data["selection"], title=f"{SELECTION}, seeds {seeds['chosen_on']}", selected=True
        )
        unchanged = [row.arm for row in selection.references]
        title = f"{REPORT}, {seeds['reported_on']}"
        return selection, sweep_table(data["report"], title=title, selected=True, unchanged=unchanged)

    def figures(self, content: bytes) -> Sequence[Figure]:
        selection, report = self.tables(content)
        of_report = [each for each in sweep_figures(report) if isinstance(each, Table)]
        return [*of_report, *sweep_figures(selection)]


def check_compares(step: ResultStep) -> None:
    """Raises ValueError for a result that compares no arms."""
    if type(step).compared is ResultStep.compared:
        raise ValueError(
            f"expected a recipe whose result compares arms, such as Evaluate, found {step.kind}, which has "
            "no `compared`"
        )
