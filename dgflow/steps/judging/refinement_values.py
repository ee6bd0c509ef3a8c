"""Selection among the settings of methods, gains at equal cost, and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dgflow.steps.arm_values import over_seeds

COVERAGE = 0.95  # of the confidence interval of a difference
SAME = 1 + 1e-9  # ratio of two costs that differ only by rounding


def best(arms: Sequence[str], fids: Mapping[str, float]) -> str:
    """Returns the arm with the lowest FID; the first one if several are equal."""
    return min(arms, key=lambda arm: fids[arm])


def rival(base: Sequence[str], fids: Mapping[str, float], costs: Mapping[str, float], cost: float) -> str:
    """Returns the arm of `base` with the lowest FID among those that cost at most `cost`; the cheapest if
    none does."""
    affordable = [arm for arm in base if costs[arm] <= cost * SAME]
    return best(affordable, fids) if affordable else min(base, key=lambda arm: costs[arm])


def difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Returns `ours` minus `theirs`, per seed, with the half-width of the `COVERAGE` interval of its mean:
    Student's t, None for one seed."""
    value = over_seeds([a - b for a, b in zip(ours, theirs, strict=True)])
    if value["spread"] is None:
        return value | {"interval": None}
    from scipy.special import stdtrit  # importing takes a quarter of a second

    quantile = float(stdtrit(len(ours) - 1, (1 + COVERAGE) / 2))
    return value | {"interval": quantile * value["spread"] / math.sqrt(len(ours))}


def front(points: Mapping[str, tuple[float, float]], *, lower_is_better: bool) -> list[str]:
    """Returns the arms on the Pareto front, from the cheapest to the most expensive: no other arm is at least
    as good at no more cost, and better in one of the two. `points` are (cost, value)."""
    sign = 1 if lower_is_better else -1
    kept: list[str] = []
    for arm in sorted(points, key=lambda arm: (points[arm][0], sign * points[arm][1])):
        if not kept or sign * points[arm][1] < sign * points[kept[-1]][1]:
            kept.append(arm)
    return kept
