"""The figures of `LogRatioPath`, from the content of its file. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dgflow.specs.figures import Curve, Figure, Lines

NOISE = "noise level sigma"
AT_CHANCE = (0.0, "real and fake equally likely")


def path_figures(curves: Mapping[str, Mapping[str, Any]]) -> Sequence[Figure]:
    """Returns mean and standard deviation of the log-ratio by noise level, for real images and for each
    arm."""
    counts = {name: max(values["images"], default=0) for name, values in curves.items()}
    note = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    means = [Curve(name, values["sigma"], values["mean"], _errors(values)) for name, values in curves.items()]
    spreads = [Curve(name, values["sigma"], values["std"]) for name, values in curves.items()]
    return [
        Lines(
            "Log-ratio along the path",
            means,
            NOISE,
            "log real / fake (nats)",
            log_x=True,
            level=AT_CHANCE,
            note=f"mean ± standard error of {note}; real images are diffused",
        ),
        Lines("Spread of the log-ratio", spreads, NOISE, "standard deviation (nats)", log_x=True),
    ]


def _errors(values: Mapping[str, Any]) -> list[float]:
    return [std / math.sqrt(count) for std, count in zip(values["std"], values["images"], strict=True)]
