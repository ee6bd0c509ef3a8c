"""The selection of a sweep: chooses settings on some sampling seeds, and reports the choice on others."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from dgflow.cli.parameters import Parameter
from dgflow.cli.sweep_values import values_of
from dgflow.specs.mistakes import did_you_mean
from dgflow.specs.step import Slice
from dgflow.steps.judging.evaluate import Evaluate
from dgflow.steps.judging.shared_samples import shared
from dgflow.steps.sweeping.sweep import Combination, Sweep
from dgflow.steps.sweeping.sweep_table import SweepTable, option_name

SEEDS = "seeds"  # parameter with a recipe's sampling seeds


@dataclass(frozen=True)
class Selection:
    """A choice on the seeds `chosen_on`, reported on the seeds `reported_on`. `by` is the metric; None for
    the first quantity of the table.
    """

    chosen_on: Sequence[int]
    reported_on: Sequence[int]
    by: str | None

    @property
    def by_words(self) -> str:
        return self.by or "the first metric"

    @property
    def reported_words(self) -> str:
        return ", ".join(map(str, self.reported_on))

    def check(self, grid: Sweep, report: Sweep) -> None:
        """Raise for an unknown metric, and for samples that both stages would measure.

        Raises:
            typer.BadParameter: the recipe does not have the metric.
            ValueError: both stages share samples, as with overlapping EDM seeds.
        """
        quantities = grid.combinations[0].result.step.columns
        if self.by is not None and self.by not in quantities:
            near = did_you_mean(self.by, quantities) or f"; there are {', '.join(quantities)}"
            raise typer.BadParameter(f"--by: expected a metric of the table, found {self.by}{near}")
        for chosen, reported in zip(grid.combinations, report.combinations, strict=True):
            for part, other in itertools.product(_measured(reported), _measured(chosen)):
                if count := shared(part, other):
                    raise ValueError(
                        f"expected different samples to choose on and to report on, found {part.title} and "
                        f"{other.title}, which share {count:,} samples; give other --seeds"
                    )

    def choice(self, table: SweepTable) -> tuple[str, dict[str, Any]]:
        """Return the metric of the choice, and the settings of the best row by it.

        Raises ValueError if the metric was not measured.
        """
        by = self.by or next(iter(table.quantities))
        if by not in table.best:
            measured = ", ".join(table.quantities)
            raise ValueError(
                f"expected a measured metric and several rows to choose from, found {by} and "
                f"{len(table.rows)} rows; the measured metrics are {measured}"
            )
        row = table.rows[table.best[by].row]
        return by, dict(row.settings)


def selection_of(
    text: str,
    by: str | None,
    parameters: Sequence[Parameter],
    swept: Mapping[str, Sequence[Any]],
    fixed: Mapping[str, Any],
) -> Selection:
    """Parse `--select-on` and `--by`; the choice is reported on the recipe's `seeds`.

    Raises typer.BadParameter for a recipe without a list of seeds, for swept seeds, for seeds on both sides,
    and for a sweep with nothing to choose.
    """
    seeds = next((each for each in parameters if each.name == SEEDS and each.is_list), None)
    if seeds is None:
        raise typer.BadParameter(
            "--select-on: expected a recipe with a parameter `seeds`, a list of sampling seeds, found none; "
            f"it has {', '.join(option_name(each.name) for each in parameters)}"
        )
    if SEEDS in swept:
        raise typer.BadParameter(
            f"--select-on: expected one list of --seeds, on which the choice is reported, found "
            f"{len(swept[SEEDS])}"
        )
    given = values_of(Parameter("select_on", seeds.kind), [text])
    if len(given) > 1:
        raise typer.BadParameter(f"--select-on: expected one list of seeds, found {len(given)}")
    chosen_on, reported_on = list(given[0]), list(fixed.get(SEEDS, seeds.default))
    if both := sorted(set(chosen_on) & set(reported_on)):
        raise typer.BadParameter(
            "--select-on: expected seeds that are not among the reported ones, --seeds "
            f"{','.join(map(str, reported_on))}, found {', '.join(map(str, both))} in both"
        )
    return Selection(chosen_on, reported_on, by)


def _measured(combination: Combination) -> list[Slice]:
    """The samples of all arms of an evaluation."""
    step = combination.result.step
    return [part for arm in step.arms.values() for part in arm] if isinstance(step, Evaluate) else []
