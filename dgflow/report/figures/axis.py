"""The axes of a plot: positions of values, and readable ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

DIGITS = (
    (1,),
    (1, 3),
    (1, 2, 5),
    (1, 2, 3, 4, 5, 6, 7, 8, 9),
)  # leading digits of ticks on a logarithmic axis
MOST_DECADES = 8  # with more decades, some have no tick
FEW, SHORT = 8, 4  # maximum number and length of values that a logarithmic axis uses as its ticks


@dataclass(frozen=True)
class Axis:
    """An axis with values from `low` to `high` over the user units from `first` to `last`."""

    low: float  # on a logarithmic axis `low` and `high` are powers of ten
    high: float
    log: bool = False
    whole: bool = False  # ticks at whole numbers only
    first: float = 0.0
    last: float = 1.0
    named: tuple[float, ...] = ()  # values of the ticks; if empty, ticks are chosen

    @classmethod
    def over(
        cls, values: Sequence[float], *, log: bool = False, whole: bool = False, margin: float = 0.0
    ) -> Axis:
        """Returns an axis over all values, with `margin` times their range added on both sides."""
        low, high = (math.log10(min(values)), math.log10(max(values))) if log else (min(values), max(values))
        room = margin * (high - low) or (0.0 if high > low else max(0.5 * whole, 0.1 * abs(low), 1e-3))
        return cls(low - room, high + room, log, whole)

    def placed(self, first: float, last: float) -> Axis:
        """Returns the axis placed over the user units from `first` to `last`."""
        return replace(self, first=first, last=last)

    def at(self, value: float) -> float:
        """Returns the position of a value, rounded to a tenth of a user unit."""
        share = ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)
        return round(self.first + share * (self.last - self.first), 1)

    def naming(self, values: Iterable[float]) -> Axis:
        """Returns the axis with ticks at the values if these are few and short, as the values of a parameter
        are; else the axis unchanged."""
        distinct = tuple(sorted(set(values)))
        if len(distinct) > FEW or any(len(_words(value)) > SHORT for value in distinct):
            return self
        return replace(self, named=distinct)

    def shows(self, value: float) -> bool:
        """Returns True for a value that has a position on the axis."""
        return math.isfinite(value) and (value > 0 or not self.log)

    def ticks(self) -> list[tuple[float, str]]:
        """Returns about five readable values with their texts."""
        if self.named:
            return [(value, _words(value)) for value in self.named]
        if self.log and len(values := self._of_decades()) >= 2:
            return [(value, _words(value)) for value in values]
        low, high = (10**self.low, 10**self.high) if self.log else (self.low, self.high)
        rough = (high - low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        step = max(step, 1.0) if self.whole else step
        numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        return [(number * step, _words(number * step)) for number in numbers]

    def _of_decades(self) -> list[float]:
        first, last = math.floor(self.low), math.ceil(self.high)
        decades = range(first, last + 1, -(-(last - first) // MOST_DECADES) or 1)
        low, high = self.low - 1e-9, self.high + 1e-9
        inside: list[float] = []
        for digits in DIGITS:
            values = [digit * 10.0**decade for decade in decades for digit in digits]
            inside = [value for value in values if low <= math.log10(value) <= high]
            if len(inside) >= 3:
                break
        return inside


def _words(value: float) -> str:
    return f"{value:,.6g}" if 1e4 <= abs(value) < 1e6 else f"{value:.6g}"
