"""The charts of a training: built as data, and drawn for the page with held-out curves in the first
colour."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from dgflow.diffusion.gain_figures import gain_figures
from dgflow.report.figures.lines import draw_lines
from dgflow.specs.figures import Curve, Lines
from dgflow.specs.train_step import TrainStep

LOG_RATIO = 20.0  # a y axis is logarithmic if the ratio of its largest to its smallest value exceeds this
TRAINING = "training"  # the curve of the training loss
LOSS, ACCURACY, SIGMA = "mean loss", "share classified correctly", "noise level sigma"  # axis titles

CALIBRATION = {
    "loss": ("held-out loss", LOSS),
    "accuracy": ("accuracy", ACCURACY),
    "calibration_error": ("calibration error", "error of the probability"),
}
"""Measurements of a discriminator by noise level: title and axis title of each."""


@dataclass(frozen=True)
class TrainingCharts:
    """The charts of one training: losses and accuracy by epoch, Gain, and the measurements by noise level of
    the epoch shown."""

    by_epoch: Sequence[Lines] = ()
    gain: Sequence[Lines] = ()
    calibration: Sequence[Lines] = ()

    @property
    def all(self) -> list[Lines]:
        return [*self.by_epoch, *self.gain, *self.calibration]


def training_charts(
    step: TrainStep, metrics: Mapping[int, Mapping[str, Any]], chosen: int, *, used: bool
) -> TrainingCharts:
    """Returns the charts of a training.

    Args:
        metrics: the measurements of each epoch.
        chosen: the epoch whose measurements by noise level are shown.
        used: whether other steps use the weights of `chosen`, which is then marked.
    """
    measured = "held_out_loss" in metrics[chosen]
    chance = (step.chance.loss, f"chance, {step.chance.words}") if measured and step.chance else None
    mark = (float(chosen), f"epoch {chosen}") if used else None

    def curve(key: str, label: str) -> Curve:
        points = {float(epoch): values[key] for epoch, values in metrics.items() if key in values}
        return Curve(label, list(points), list(points.values()))

    losses = [curve("train_loss", TRAINING), curve("held_out_loss", "held-out")]
    accuracy = [curve("held_out_accuracy", "held-out")]
    by_epoch = [
        line_chart(title, curves, x_label="epoch", y_label=y_label, mark=mark, level=level)
        for title, y_label, all_curves, level in (
            ("loss", LOSS, losses, chance),
            ("held-out accuracy", ACCURACY, accuracy, None),
        )
        if (curves := [each for each in all_curves if each.x])
    ]
    levels = metrics[chosen].get("by_sigma", [])
    middles = [math.sqrt(level["sigma"][0] * level["sigma"][1]) for level in levels]
    expected = {"loss": chance, "accuracy": (0.5, "chance")}
    calibration = [
        line_chart(
            title,
            [Curve(title, middles, [level[key] for level in levels])],
            x_label=SIGMA,
            y_label=y_label,
            log_x=True,
            level=expected.get(key),
        )
        for key, (title, y_label) in (CALIBRATION.items() if levels else ())
    ]
    return TrainingCharts(by_epoch, gain_figures(metrics, chosen, mark), calibration)


def line_chart(
    title: str,
    curves: Sequence[Curve],
    *,
    x_label: str,
    y_label: str = "",
    log_x: bool = False,
    mark: tuple[float, str] | None = None,
    level: tuple[float, str] | None = None,
) -> Lines:
    """Returns a chart, with a logarithmic y axis if all values are positive and span a wide range.

    Args:
        mark: an x value to point out, and its caption.
        level: a y value to compare with, and its caption.
    """
    values = [y for curve in curves for y in curve.y] + ([level[0]] if level else [])
    log_y = bool(values) and min(values) > 0 and max(values) > LOG_RATIO * min(values)
    return Lines(title, curves, x_label, y_label, log_x=log_x, log_y=log_y, mark=mark, level=level)


def draw_chart(chart: Lines) -> Markup:
    """Draws the chart as an `<svg>` element. A curve's colour does not depend on which other curves the chart
    has. Raises ValueError if there is no point to draw."""
    colours = [int(curve.label == TRAINING) for curve in chart.curves]
    return Markup(draw_lines(chart, colours).element)  # draw_lines escapes its texts
