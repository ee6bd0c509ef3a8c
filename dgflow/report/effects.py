"""The effect of each arm of a comparison: its change against the first arm without guidance, with an
interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dgflow.report.layout import own_error
from dgflow.specs.figures import Metric
from dgflow.specs.step import ResultStep, Slice
from dgflow.steps.judging.evaluate import Evaluate
from dgflow.steps.judging.refinement_values import COVERAGE, difference

NORMAL = statistics.NormalDist().inv_cdf((1 + COVERAGE) / 2)  # half-width of an interval in standard errors

Arms = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Effect:
    """The change of one metric from the arm `base` to another arm.

    `half` is the half-width of the `COVERAGE` interval, None if unknown. `how` names the interval's method,
    or the reason why there is none.
    """

    arm: str
    base: str
    metric: Metric
    before: float
    after: float
    half: float | None
    how: str

    @property
    def change(self) -> float:
        return self.after - self.before

    @property
    def verdict(self) -> Literal["better", "worse", "unclear", "unknown"]:
        """The verdict: `unclear` if the interval contains 0; `unknown` without an interval, and for a metric
        that is better neither higher nor lower."""
        if self.half is None or self.metric.nearest:
            return "unknown"
        if abs(self.change) <= self.half:
            return "unclear"
        return "better" if (self.change < 0) == self.metric.lower_is_better else "worse"

    @property
    def words(self) -> str:
        """The change with its interval, such as `−1.78 (−2.41 to −1.15)`."""
        return self.signed if self.half is None else f"{self.signed} ({self.ends})"

    @property
    def ends(self) -> str:
        """The ends of the interval, such as `−2.41 to −1.15`."""
        assert self.half is not None
        return " to ".join(self._signed(self.change + side * self.half) for side in (-1, 1))

    @property
    def signed(self) -> str:
        """The change with its sign, such as `−1.78`."""
        return self._signed(self.change)

    def _signed(self, value: float) -> str:
        return f"{value:+z,.{self.metric.decimals}f}".replace("-", "−")


def base_of(step: ResultStep, arms: Collection[str]) -> str:
    """Returns the arm that the others are compared with: the first arm without guidance, or else the first
    arm."""
    return next((name for name in arms if not guidance_of(step, name)), next(iter(arms)))


def effects(step: ResultStep, arms: Arms) -> list[Effect]:
    """Returns the change of the main metric in every arm except the base.

    The main metric of an evaluation is FID. For any other step it is the first quantity whose change has an
    interval, or else the first quantity.
    """
    known = [name for name in step.columns if any(name in arm for arm in arms.values())]
    if len(arms) < 2 or not known:
        return []
    found: list[Effect] = []
    for name in known[:1] if isinstance(step, Evaluate) else known:
        of_metric = _of(step, arms, name)
        if of_metric and any(each.half is not None for each in of_metric):
            return of_metric
        found = found or of_metric
    return found


def _of(step: ResultStep, arms: Arms, name: str) -> list[Effect]:
    base, metric = base_of(step, arms), step.columns[name]
    if name not in arms[base]:
        return []
    return [
        Effect(
            arm,
            base,
            metric,
            arms[base][name]["mean"],
            values[name]["mean"],
            *half_width(values, arms[base], name),
        )
        for arm, values in arms.items()
        if arm != base and name in values
    ]


def half_width(arm: Mapping[str, Any], base: Mapping[str, Any], name: str) -> tuple[float | None, str]:
    """Returns the half-width of the interval of a change, and the `how` of an `Effect`."""
    ours, theirs = arm[name], base[name]
    count = len(ours["per_seed"])
    if count == len(theirs["per_seed"]) > 1 and arm.get("seeds") == base.get("seeds"):
        paired = difference(ours["per_seed"], theirs["per_seed"])
        return paired["interval"], f"by Student's t over {count} sampling seeds, paired by seed"
    own, other = own_error(ours), own_error(theirs)
    if own is not None and other is not None:
        return NORMAL * math.hypot(own, other), "from the standard errors of the samples, one sampling seed"
    return None, "one value per arm, so the error of the change is unknown"


def guidance_of(step: ResultStep, arm: str) -> tuple[Any, ...]:
    """Returns the guidance terms of an arm's samples. For a step whose arms are not samples, it returns the
    arm's name as the only item, so that no arm counts as unguided."""
    parts = getattr(step, "arms", {}).get(arm, ())
    if not parts or not isinstance(parts[0], Slice):
        return (arm,)
    return getattr(parts[0].origin.step, "guidance", ())
