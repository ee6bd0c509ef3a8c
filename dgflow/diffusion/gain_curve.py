"""Gain as a parabola in the guidance weight, with its standard error, and choices based on it.

Gain (Kim et al. 2023, theorem 2) is the decrease of a bound on KL(data || samples) by guidance of weight w,
in nats per image. Every held-out item gives two numbers, whose means determine Gain at every w:

    Gain(w) = 2 w agreement - w^2 energy

It is largest at w = agreement / energy. `dgflow.diffusion.gain` measures both; this module does not import
torch, so that a plan can choose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

from dgflow.specs.step import Best

WEIGHTS = (0.5, 1.0, 2.0)
"""Weights whose Gain every epoch records; Gain at any other weight follows."""

GAIN_METRICS: Mapping[str, Best] = {"gain": "highest", "gain_at_best_weight": "highest"}
"""The measurements of Gain by which an epoch can be chosen: at weight 1, and at the epoch's best weight."""

QUANTILE = 1.6449
"""Distance of the one-sided 95 % confidence bound below a mean, in standard errors."""

WEIGHT_DECIMALS = 2
"""Decimals of a chosen weight: an error of 0.005 costs 0.003 % of the largest Gain, and a last bit of a
measurement changes no sample."""


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: float
    error: float

    @property
    def lower_bound(self) -> float:
        """Lower confidence bound of the mean, one-sided at 95 %."""
        return self.mean - QUANTILE * self.error


@dataclass(frozen=True)
class GainCurve:
    """Gain at every weight.

    Args:
        agreement: mean of (x0 - D) * gradient, integrated over log sigma: half the slope of Gain at weight 0.
        energy: mean of |sigma * gradient|^2, integrated likewise.
        covariance: covariance matrix of the two means: variance of agreement, covariance, variance of energy.
    """

    agreement: float
    energy: float
    covariance: tuple[float, float, float]

    def at(self, weight: float) -> Estimate:
        """Gain at a weight, in nats per image."""
        mean = weight * (2 * self.agreement - weight * self.energy)
        first, mixed, second = self.covariance
        variance = weight**2 * (4 * first - 4 * weight * mixed + weight**2 * second)
        return Estimate(mean, math.sqrt(max(variance, 0.0)))

    @property
    def gains(self) -> bool:
        """True if some positive weight has a positive Gain at 95 % confidence."""
        return self.energy > 0 and Estimate(self.agreement, math.sqrt(self.covariance[0])).lower_bound > 0

    @property
    def best_weight(self) -> Estimate:
        """The non-negative weight with the largest Gain."""
        if self.energy <= 0 or self.agreement <= 0:
            return Estimate(0.0, 0.0)
        weight = self.agreement / self.energy
        first, mixed, second = self.covariance
        variance = first - 2 * weight * mixed + weight**2 * second
        return Estimate(weight, math.sqrt(max(variance, 0.0)) / self.energy)


@dataclass(frozen=True)
class LevelGain:
    """The part of Gain from the noise levels between `low` and `high`."""

    low: float
    high: float
    curve: GainCurve

    @property
    def middle(self) -> float:
        """The middle of the range in log sigma."""
        return math.sqrt(self.low * self.high)


@dataclass(frozen=True)
class MeasuredGain:
    """Gain on held-out images: the total, and by noise level, with parts that sum to the total.

    Every image has an item at every level, and the items of an image are dependent. The error of the total is
    therefore the error of a mean over images of the sum of their items.
    """

    images: int
    total: GainCurve
    levels: tuple[LevelGain, ...]

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """Restore from `plain()`."""
        levels = (LevelGain(*_pair(each["sigma"]), _curve(each)) for each in plain["by_sigma"])
        return cls(plain["images"], _curve(plain), tuple(levels))

    def plain(self) -> dict[str, Any]:
        """The measurement as JSON data, with Gain and its error at `WEIGHTS`."""
        levels = [{"sigma": [each.low, each.high], **_plain(each.curve)} for each in self.levels]
        return {"images": self.images, "weights": list(WEIGHTS), **_plain(self.total), "by_sigma": levels}

    def metrics(self) -> dict[str, Any]:
        """The metrics of an epoch; `gain` is Gain at weight 1, the default of guidance."""
        best = self.total.best_weight
        mean, error = self.total.at(1.0)
        return {
            "gain": mean,
            "gain_error": error,
            "gain_at_best_weight": self.total.at(best.mean).mean,
            "gain_curve": self.plain(),
        }

    def window(self, weight: float) -> tuple[LevelGain, ...]:
        """The contiguous levels with positive Gain at this weight, at 95 % confidence (one-sided, per level);
        of several ranges, the one with the largest Gain; empty if there is none.
        """
        runs: list[list[LevelGain]] = [[]]
        for level in self.levels:
            if level.curve.at(weight).lower_bound > 0:
                runs[-1].append(level)
            else:
                runs.append([])
        return tuple(max(runs, key=lambda run: sum(level.curve.at(weight).mean for level in run)))

    def best_weight_within(self, levels: Sequence[LevelGain]) -> float:
        """The weight with the largest Gain over these levels only."""
        agreement, energy = (
            math.fsum(getattr(level.curve, name) for level in levels) for name in ("agreement", "energy")
        )
        return agreement / energy if energy > 0 and agreement > 0 else 0.0


@dataclass(frozen=True)
class GainChoice:
    """A weight and a window chosen by Gain; None for values not chosen by Gain.

    `sigma_max` is infinite if Gain is positive up to the highest measured level.
    """

    weight: float | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None

    @classmethod
    def of(cls, measured: MeasuredGain, weight: float | None, *, low: bool, high: bool) -> Self:
        """Choose the weight with the largest Gain, unless `weight` is given, and the requested ends of the
        window.

        The window is the one at the best weight over all measured levels (or at the given weight); the weight
        is then the best one within the window. Without a positive Gain the weight is 0: no guidance.
        """
        if weight is None and not measured.total.gains:
            return cls(weight=0.0)
        levels = measured.levels
        if low or high:
            levels = measured.window(measured.total.best_weight.mean if weight is None else weight)
            if not levels:
                return cls(weight=0.0)
        best = measured.best_weight_within(levels) if low or high else measured.total.best_weight.mean
        last = levels[-1].high
        return cls(
            weight=None if weight is not None else round(best, WEIGHT_DECIMALS),
            sigma_min=levels[0].low if low else None,
            sigma_max=(math.inf if last == measured.levels[-1].high else last) if high else None,
        )

    @property
    def guides(self) -> bool:
        """False if no weight has a positive Gain."""
        return self.weight != 0.0

    def plain(self) -> dict[str, Any]:
        """The choice as JSON data."""
        values = asdict(self)
        return values | {"sigma_max": None if self.sigma_max == math.inf else self.sigma_max}

    @property
    def warning(self) -> str:
        """See `Choice.warning`."""
        if self.guides:
            return ""
        return (
            "no weight of guidance has a Gain above 0 with 95 % confidence on the held-out images, so the "
            "weight is 0 and the samples are unguided: train the discriminator on more images, choose the "
            'epoch with .best("gain"), or give a weight'
        )

    def __str__(self) -> str:
        """The choice as text: `weight 0.93, sigma 0.12 to 4.1`."""
        if not self.guides:
            return "weight 0, as no weight has a Gain above 0"
        ends = []
        if self.sigma_min is not None:
            ends.append(f"from {self.sigma_min:.3g}")
        if self.sigma_max is not None:
            ends.append("without an upper end" if self.sigma_max == math.inf else f"to {self.sigma_max:.3g}")
        weight = [] if self.weight is None else [f"weight {self.weight:g}"]
        return ", ".join([*weight, *([f"sigma {' '.join(ends)}"] if ends else [])])


def _plain(curve: GainCurve) -> dict[str, Any]:
    at = [curve.at(weight) for weight in WEIGHTS]
    return asdict(curve) | {
        "covariance": list(curve.covariance),
        "gain": [each.mean for each in at],
        "error": [each.error for each in at],
    }


def _curve(plain: Mapping[str, Any]) -> GainCurve:
    first, mixed, second = plain["covariance"]
    return GainCurve(plain["agreement"], plain["energy"], (first, mixed, second))


def _pair(values: Sequence[float]) -> tuple[float, float]:
    first, second = values
    return first, second
