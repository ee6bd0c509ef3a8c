"""Figures of Gain: by weight and noise level, and by epoch of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dgflow.diffusion.gain_curve import WEIGHTS, Estimate, MeasuredGain
from dgflow.specs.figures import Curve, Lines

UNIT = "nats per image"
NONE = (0.0, "no gain")
STEPS = 15  # points of the curve over weights, up to twice the best weight, where Gain returns to 0


def gain_figures(
    metrics: Mapping[int, Mapping[str, Any]], chosen: int, mark: tuple[float, str] | None
) -> list[Lines]:
    """Gain by epoch, and Gain of the epoch `chosen` by weight and by noise level; empty if epochs record
    none.
    """
    measured = {
        epoch: MeasuredGain.of(values["gain_curve"])
        for epoch, values in metrics.items()
        if "gain_curve" in values
    }
    if chosen not in measured:
        return []
    by_epoch = {
        f"weight {weight:g}": [each.total.at(weight) for each in measured.values()]
        for weight in metrics[chosen]["gain_curve"]["weights"]
    }
    by_epoch_figure = _lines("Gain", list(measured), by_epoch, x_label="epoch", mark=mark)
    return [by_epoch_figure, *curve_figures(measured[chosen])]


def curve_figures(measured: MeasuredGain, weights: Sequence[float] = WEIGHTS) -> list[Lines]:
    """Gain by weight, and by noise level at some weights."""
    best = measured.total.best_weight.mean
    grid = [step * max(2 * best, *weights) / STEPS for step in range(STEPS + 1)]
    return [
        _lines(
            "Gain by weight",
            grid,
            {"Gain": [measured.total.at(weight) for weight in grid]},
            x_label="guidance weight",
            mark=(best, f"largest at {best:.2f}") if best > 0 else None,
        ),
        _lines(
            "Gain by noise level",
            [level.middle for level in measured.levels],
            {
                f"weight {weight:g}": [level.curve.at(weight) for level in measured.levels]
                for weight in weights
            },
            x_label="noise level sigma",
            log_x=True,
        ),
    ]


def _lines(title: str, x: Sequence[float], curves: Mapping[str, Sequence[Estimate]], **options: Any) -> Lines:
    return Lines(
        title,
        [
            Curve(label, x, [each.mean for each in estimates], [each.error for each in estimates])
            for label, estimates in curves.items()
        ],
        y_label=UNIT,
        level=NONE,
        **options,
    )
