"""Measured values of an arm as the files of results hold them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None of one) and the values themselves, a value per sampling seed: a
    quantity of `ResultStep.compared`."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "spread": spread, "per_seed": list(values)}


def value_text(value: Mapping[str, Any], decimals: int) -> str:
    """`29.49 ± 0.41`: mean and spread, where that is known. What rounds to nothing has no sign."""
    numbers = [value["mean"], *([] if value["spread"] is None else [value["spread"]])]
    return " ± ".join(f"{each:z,.{decimals}f}" for each in numbers)


def standard_error(values: np.ndarray) -> np.ndarray:
    """The standard error of the mean over the first axis, of two values or more."""
    return values.std(axis=0, ddof=1) / math.sqrt(len(values))
