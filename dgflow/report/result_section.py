"""The page's result sections: the table of the result, and the figures of every step that has figures."""

from __future__ import annotations

from typing import Any

from dgflow.report.figures.draw import drawn
from dgflow.report.layout import labelled
from dgflow.report.outcome import has_figures, of_seed, outcome_of
from dgflow.report.summary import Summary, comparisons, measured, notes, table_rows
from dgflow.report.timings import timing_table, timings
from dgflow.report.verdict import arm_plots
from dgflow.steps.judging.evaluate import Evaluate
from dgflow.steps.sweeping.sweep import SelectedSweep, Sweep
from dgflow.store.objects import ObjectStore


def result(summary: Summary) -> dict[str, Any] | None:
    """Returns the section of the recipe's result, None while the recipe is incomplete."""
    figures = [] if summary.outcome is None else [drawn(each) for each in summary.outcome.figures]
    if summary.result is not None:
        return _evaluation(summary) | {"figures": figures, "arms": arm_plots(summary)}
    if summary.product is None:
        return None
    section: dict[str, Any] = {
        "arms": arm_plots(summary),
        "rows": [],
        "notes": notes(summary),
        "comparisons": [],
        "per_seed": [],
        "figures": figures,
    }
    if (own := summary.outcome) is None or not own.arms:
        return section
    table = [] if own.table is None else [drawn(own.table)]
    heading = ["arm", "seed", *(metric.heading for metric in own.shown.values())]
    per_seed = own.per_seed if len(own.per_seed) > len(own.arms) else []
    return section | {"figures": [*table, *figures], "per_seed": per_seed, "seed_heading": heading}


def _evaluation(summary: Summary) -> dict[str, Any]:
    assert isinstance(summary.target, Evaluate) and summary.result is not None
    (_, *heading), *rows = table_rows(summary)
    floor = None if summary.result["floor"] is None else rows.pop()
    shown = measured(summary.target, summary.result)
    per_seed = []
    for name in summary.target.arms:
        arm = summary.result["arms"][name]
        for number, seed in enumerate(arm["seeds"]):
            cells = (of_seed(metric, arm.get(key), number) for key, metric in shown.items())
            per_seed.append([name, "" if seed is None else str(seed), *cells])
    return {
        "heading": ["arm", *heading],
        "rows": rows,
        "floor": floor,
        "per_seed": per_seed,
        "seed_heading": ["arm", "seed", *heading[:-2]],
        "notes": notes(summary),
        "comparisons": comparisons(summary),
    }


def figure_sections(summary: Summary, store: ObjectStore) -> list[dict[str, Any]]:
    """Returns the `title`, `name` and `figures` of every step before the last that has figures. Steps whose
    results are in the table of a sweep are left out. Raises CorruptObject if a file is damaged."""
    sections = []
    sweeps = [each.node for each in summary.plans if isinstance(each.step, Sweep | SelectedSweep)]
    times = timings(summary.plans, summary.receipts)
    in_tables = {key for node in sweeps for key in node.reads.values()}
    for label, step_plan in labelled(summary.plans[:-1]):
        if step_plan.node.key in in_tables or not has_figures(step_plan.step):
            continue
        outcome, arms = outcome_of(step_plan, store), times.get(step_plan.step.name)
        own = [*([] if outcome is None else outcome.figures), *([timing_table(arms)] if arms else [])]
        if own:
            figures = [drawn(each) for each in own]
            sections.append({"title": label, "name": step_plan.step.name, "figures": figures})
    return sections
