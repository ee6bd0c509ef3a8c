"""A part of `gpu.py`: its device, time limit and output file, and functions to time and to compare."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgflow.specs.spec import Precision

ERRORS: dict[Precision, float] = {"float32": 1e-3, "tf32": 2e-2, "bfloat16": 0.3, "float16": 0.1}
"""Largest accepted error of the golden networks' outputs, relative to the largest value."""
PRECISIONS = tuple(ERRORS)
NARROW = {"bfloat16": torch.bfloat16, "float16": torch.float16}

BEGAN = time.monotonic()


@dataclass(frozen=True)
class Part:
    """Device, time limit and output file of a part."""

    device: torch.device
    toy: bool
    seconds: float
    file: Path

    def row(self, what: str, **figures: Any) -> None:
        """Writes a row immediately, so that it survives the end of the part."""
        with self.file.open("a") as file:
            file.write(json.dumps({"what": what, **figures}) + "\n")

    @property
    def time_is_up(self) -> bool:
        return time.monotonic() - BEGAN > self.seconds

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def median_seconds(part: Part, evaluate: Callable[[], Tensor], seconds: float) -> float:
    """Returns the median time of a call in seconds, over the calls that fit into `seconds` (at least three),
    after one warm-up call."""
    evaluate()
    part.wait()
    found, end = [], time.perf_counter() + (min(seconds, 0.1) if part.toy else seconds)
    while len(found) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        evaluate()
        part.wait()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def largest_error(found: Tensor, expected: Tensor) -> float:
    """Returns the largest difference of finite values, relative to the largest expected value."""
    found, expected = found.detach().cpu().double(), expected.double()
    finite = expected.isfinite()
    if not finite.any():
        return 0.0
    return float(
        (found[finite] - expected[finite]).abs().max() / expected[finite].abs().max().clamp_min(1e-30)
    )
