"""The effects of a sweep: each variant against the arm without guidance, by one metric."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgflow.report.effects import Effect, base_of, half_width
from dgflow.steps.judging.refinement_values import difference
from dgflow.steps.sweeping.sweep import SelectedSweep, Sweep
from dgflow.steps.sweeping.sweep_table import SweepTable, options_text, settings_text


@dataclass(frozen=True)
class Variants:
    """The variants of a sweep by the metric of its choice, the best first: their effects, labelled by their
    settings.

    `remark` says how the choice bears on the best one; it is empty for a single variant.
    """

    effects: Sequence[Effect]
    labels: Sequence[str]
    is_independent: bool  # the best was measured on other samples than those of the choice
    remark: str

    @property
    def best(self) -> Effect:
        return self.effects[0]


def variants(step: Sweep | SelectedSweep, content: bytes) -> Variants | None:
    """Returns the variants of a sweep, for a `SelectedSweep` the chosen one on the seeds of the report. None
    without an arm to compare with."""
    data = json.loads(content)
    if isinstance(step, Sweep):
        if not (found := _effects(step, data, step.table(content))):
            return None
        count = len(found)
        return Variants([*found.values()], [*found], count == 1, _chosen_here(count) if count > 1 else "")
    selection, report = step.selection.step, step.report.step
    assert isinstance(selection, Sweep) and isinstance(report, Sweep)
    tables = step.tables(content)
    among = _effects(selection, data["selection"], tables[0], step.by)
    if not (found := _effects(report, data["report"], tables[1], step.by)):
        return None
    effects = list(found.values())
    chosen_on, reported_on = (", ".join(map(str, each)) for each in (step.chosen_on, step.reported_on))
    remark = (
        f"Chosen among {len(among)} variants by {effects[0].metric.heading} on the seeds {chosen_on}, and "
        f"measured on the seeds {reported_on}."
    )
    return Variants(effects, [*found], True, remark)


def _chosen_here(count: int) -> str:
    return (
        f"The best of {count} variants is chosen on these samples, so it looks better than it is, and the "
        "interval does not account for that. --select-on SEEDS chooses on other seeds."
    )


def _effects(
    step: Sweep, content: Mapping[str, Any], table: SweepTable, by: str | None = None
) -> dict[str, Effect]:
    """Returns the effects of all rows of the table but those of the arm without guidance, by their settings,
    the best first."""
    name = by or next(iter(table.best or table.quantities), "")
    if name not in table.quantities:
        return {}
    compared = step.combinations[0].result.step
    first = dict(content["combinations"][0]["arms"])
    base = base_of(compared, first)
    is_same = any(row.arm == base for row in table.references)
    arms = {row.arm for row in table.rows} - {base}
    found = {}
    for row in table.rows:
        own = [
            dict(each["arms"])
            for each in content["combinations"]
            if all(each["settings"][key] == value for key, value in row.settings.items())
        ]
        pairs = [(each[row.arm], each[base]) for each in own if row.arm in each and base in each]
        if row.arm == base or not all(name in arm and name in other for arm, other in pairs) or not pairs:
            continue
        settings = settings_text(row.settings)
        half, how = _half(pairs, name, table.over)
        effect = Effect(
            f"{row.arm}{' with ' * bool(settings)}{settings}",
            base if is_same or not settings else f"{base} with the same settings",
            table.quantities[name],
            statistics.fmean(other[name]["mean"] for _, other in pairs),
            statistics.fmean(arm[name]["mean"] for arm, _ in pairs),
            half,
            how,
        )
        found[effect.arm if len(arms) > 1 or not settings else settings] = effect
    sign = 1.0 if table.quantities[name].lower_is_better else -1.0
    return dict(sorted(found.items(), key=lambda item: sign * item[1].after))


def _half(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], name: str, over: Sequence[str]
) -> tuple[float | None, str]:
    """Returns the half-width of the interval of a change, with its method; `pairs` are arm and base of every
    repetition."""
    if len(pairs) == 1:
        return half_width(*pairs[0], name)
    ours, theirs = ([arm[name]["mean"] for arm in arms] for arms in zip(*pairs, strict=True))
    how = f"by Student's t over {len(pairs)} repetitions with other {options_text(over)}, paired"
    return difference(ours, theirs)["interval"], how
