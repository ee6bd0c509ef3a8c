"""Formatting of an arm's measured values for result files."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Returns the mean, the sample standard deviation (None for a single value) and the values themselves,
    one value per sampling seed: a quantity of `ResultStep.compared`."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "spread": spread, "per_seed": list(values)}


def value_text(value: Mapping[str, Any], decimals: int) -> str:
    """Formats mean and spread, as in `29.49 ± 0.41`; without the spread if it is unknown. A value that
    rounds to zero has no sign."""
    numbers = [value["mean"], *([] if value["spread"] is None else [value["spread"]])]
    return " ± ".join(f"{each:z,.{decimals}f}" for each in numbers)


def standard_error(values: np.ndarray) -> np.ndarray:
    """Returns the standard error of the mean over the first axis; at least two values."""
    return values.std(axis=0, ddof=1) / math.sqrt(len(values))
