"""The measurements by which an epoch of a discriminator can be chosen without samples, and how well their
order agrees with that of FID."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgflow.metrics.rank_correlation import kendall, over_repetitions, rank_correlation, spearman
from dgflow.steps.arm_values import over_seeds

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Selector:
    """A measurement of an epoch, from its number and metrics; None if the training does not have it."""

    name: str
    heading: str
    value: Callable[[int, Metrics], float | None]
    lower_is_better: bool = True
    error: Callable[[Metrics], float | None] = lambda metrics: None

    def values(self, metrics: Mapping[int, Metrics]) -> dict[int, float] | None:
        """Returns the values by epoch; None unless every epoch has one."""
        found = {epoch: self.value(epoch, each) for epoch, each in metrics.items()}
        values = {epoch: value for epoch, value in found.items() if value is not None}
        return values if len(values) == len(found) else None

    def choice(self, by_epoch: Mapping[int, float]) -> int:
        """Returns the epoch with the best value; the earliest one if several are equal."""
        sign = 1 if self.lower_is_better else -1
        return min(by_epoch, key=lambda epoch: (sign * by_epoch[epoch], epoch))


def _recorded(name: str) -> Callable[[int, Metrics], float | None]:
    return lambda epoch, metrics: metrics.get(name)


def _calibration_error(epoch: int, metrics: Metrics) -> float | None:
    """Returns the expected calibration error; with noise levels, their mean weighted by items."""
    del epoch
    levels = metrics.get("by_sigma")
    if not levels:
        return metrics.get("calibration_error")
    return sum(each["calibration_error"] * each["n"] for each in levels) / sum(each["n"] for each in levels)


SELECTORS = (
    Selector("gain", "Gain", _recorded("gain"), False, error=lambda metrics: metrics.get("gain_error")),
    Selector("gain_at_best_weight", "Gain, best weight", _recorded("gain_at_best_weight"), False),
    Selector("held_out_loss", "held-out loss", _recorded("held_out_loss")),
    Selector("held_out_accuracy", "held-out accuracy", _recorded("held_out_accuracy"), False),
    Selector("calibration_error", "calibration error", _calibration_error),
    Selector("last", "last epoch", lambda epoch, metrics: float(epoch), False),
)


def verdict(
    selector: Selector, values: Mapping[int, float], fids: Mapping[int, Sequence[float]]
) -> dict[str, Any]:
    """Returns the epoch that `selector` would choose by `values`, its FID and regret, and the rank
    correlations.

    Args:
        values: the selector's, by epoch.
        fids: by the same epochs, one for each sampling seed.

    A correlation of 1 means that the selector orders the epochs as FID does, -1 that it reverses the order.
    The regret is the FID of the choice minus the lowest mean FID of the epochs, per seed.
    """
    epochs = sorted(values)
    means = {epoch: statistics.fmean(fids[epoch]) for epoch in epochs}
    least = min(epochs, key=lambda epoch: (means[epoch], epoch))
    choice = selector.choice(values)
    sign = 1.0 if selector.lower_is_better else -1.0
    signed = [sign * values[epoch] for epoch in epochs]
    by_seed = list(zip(*(fids[epoch] for epoch in epochs), strict=True))
    found: dict[str, Any] = {
        "choice": choice,
        "fid": over_seeds(fids[choice]),
        "regret": over_seeds([a - b for a, b in zip(fids[choice], fids[least], strict=True)]),
    }
    for name, coefficient in (("spearman", spearman), ("kendall", kendall)):
        correlation = rank_correlation(coefficient, signed, [means[epoch] for epoch in epochs])
        interval = over_repetitions(coefficient, signed, by_seed)
        found[name] = {
            "value": correlation.value,
            "p": correlation.p,
            "interval": None if interval is None else list(interval),
        }
    return found
