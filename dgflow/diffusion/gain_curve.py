"""Gain as a parabola in the weight of guidance, with its standard error, and the choices made from it.

Gain (Kim et al. 2023, theorem 2) is the fall in a bound on KL(data || samples) that a weight w of guidance
brings, in nats per image. Every held-out item gives two numbers, whose means give Gain at every w:

    Gain(w) = 2 w agreement - w^2 energy

It is largest at w = agreement / energy. `dgflow.diffusion.gain` measures the two; here nothing imports torch,
so that a plan can choose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

from dgflow.specs.step import Best

WEIGHTS = (0.5, 1.0, 2.0)
"""Weights whose Gain every epoch records; that at any other follows."""

GAIN_METRICS: Mapping[str, Best] = {"gain": "largest", "gain_at_best_weight": "largest"}
"""The measurements of Gain by which an epoch can be chosen: at weight 1, and at the epoch's best weight."""

QUANTILE = 1.6449
"""Standard errors below a mean at which its one-sided 95 % confidence bound lies."""

WEIGHT_DECIMALS = 2
"""Decimals of a chosen weight: an error of 0.005 costs 0.003 % of the largest Gain, and a last bit of a
measurement changes no sample."""


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: float
    error: float

    @property
    def lower_bound(self) -> float:
        """Of the mean, one-sided at 95 %."""
        return self.mean - QUANTILE * self.error


@dataclass(frozen=True)
class GainCurve:
    """Gain at every weight.

    Args:
        agreement: mean of (x0 - D) * gradient, integrated over log sigma: half the slope of Gain at weight 0.
        energy: mean of |sigma * gradient|^2, integrated likewise.
        covariance: of these two means: variance of agreement, covariance, variance of energy.
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
        """True where some weight above 0 has a Gain above 0, at 95 % confidence."""
        return self.energy > 0 and Estimate(self.agreement, math.sqrt(self.covariance[0])).lower_bound > 0

    @property
    def best_weight(self) -> Estimate:
        """The weight of 0 or more at which Gain is largest."""
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
        """In log sigma."""
        return math.sqrt(self.low * self.high)


@dataclass(frozen=True)
class MeasuredGain:
    """Gain on held-out images: in all, and by noise level, whose parts add up to it.

    Every image has an item at every level, and its items belong together. So the error of the total is that
    of a mean over images of the sums of their items.
    """

    images: int
    total: GainCurve
    levels: tuple[LevelGain, ...]

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """From what `plain` gave."""
        levels = (LevelGain(*_pair(each["sigma"]), _curve(each)) for each in plain["by_sigma"])
        return cls(plain["images"], _curve(plain), tuple(levels))

    def plain(self) -> dict[str, Any]:
        """As JSON data, with Gain and its error at `WEIGHTS`."""
        levels = [{"sigma": [each.low, each.high], **_plain(each.curve)} for each in self.levels]
        return {"images": self.images, "weights": list(WEIGHTS), **_plain(self.total), "by_sigma": levels}

    def metrics(self) -> dict[str, Any]:
        """The measurements of an epoch: `gain` is that at weight 1, as guidance has it by default."""
        best = self.total.best_weight
        mean, error = self.total.at(1.0)
        return {
            "gain": mean,
            "gain_error": error,
            "gain_at_best_weight": self.total.at(best.mean).mean,
            "gain_curve": self.plain(),
        }

    def window(self, weight: float) -> tuple[LevelGain, ...]:
        """The neighbouring levels at which Gain at this weight is above 0 with 95 % confidence, one-sided and
        level by level; of several such ranges that with the largest Gain. Empty where there is none."""
        runs: list[list[LevelGain]] = [[]]
        for level in self.levels:
            if level.curve.at(weight).lower_bound > 0:
                runs[-1].append(level)
            else:
                runs.append([])
        return tuple(max(runs, key=lambda run: sum(level.curve.at(weight).mean for level in run)))

    def best_weight_within(self, levels: Sequence[LevelGain]) -> float:
        """The weight at which the Gain of these levels alone is largest."""
        agreement, energy = (
            math.fsum(getattr(level.curve, name) for level in levels) for name in ("agreement", "energy")
        )
        return agreement / energy if energy > 0 and agreement > 0 else 0.0


@dataclass(frozen=True)
class GainChoice:
    """A weight and a window chosen by Gain; None for what was not to be chosen.

    `sigma_max` is infinite where Gain is above 0 up to the highest level that was measured.
    """

    weight: float | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None

    @classmethod
    def of(cls, measured: MeasuredGain, weight: float | None, *, low: bool, high: bool) -> Self:
        """The weight where Gain is largest, unless `weight` is given, and the ends of the window that are
        asked for.

        The window is that at the weight which is best over all measured levels (or the given one), and the
        weight is then the best one within it. Without a Gain above 0 the weight is 0: no guidance.
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
        """False where no weight has a Gain above 0."""
        return self.weight != 0.0

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
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
        """`weight 0.93, sigma 0.12 to 4.1`."""
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
