"""The page's training sections: curves by epoch, and by noise level if epochs have such measurements."""

from __future__ import annotations

from typing import Any

from dgflow.engine.plan import StepPlan
from dgflow.report.charts import CALIBRATION, draw_chart, training_charts
from dgflow.report.figures.draw import drawn
from dgflow.report.layout import parts
from dgflow.report.own_receipts import own_receipts
from dgflow.report.summary import Summary
from dgflow.specs.step import Weights
from dgflow.specs.train_step import TrainStep

COLUMNS = (
    ("train_loss", "training loss"),
    ("held_out_loss", "held-out loss"),
    ("held_out_accuracy", "held-out accuracy"),
    ("gain", "Gain at weight 1"),  # of trainings that measure it
)


def training(step_plan: StepPlan, summary: Summary) -> dict[str, Any]:
    """Returns the section of one training step: its curves by epoch, and its calibration by noise level if
    epochs have such measurements."""
    step, receipts = step_plan.step, own_receipts(summary.receipts, step_plan.step)
    assert isinstance(step, TrainStep)
    metrics = {receipt.number: receipt.metrics for receipt in receipts}
    page: dict[str, Any] = {"title": f"{step.title}, seed {step.seed}", "name": step.name}
    page["label"] = f"{page['title']}, {step.name.rpartition('-')[2][:6]}"
    page |= {
        "state": "",
        "chosen": "",
        "charts": [],
        "epochs": [],
        "gain": [],
        "by_sigma": [],
        "calibration": [],
    }
    if not metrics:
        return page | {"state": "no epoch yet" + (f": {step_plan.reason}" if step_plan.reason else "")}
    if not step_plan.complete:
        page["state"] = f"{len(step_plan.done):,} of {parts(len(step_plan.wanted), step_plan.unit)} done"
    used = _used(step, summary) if step_plan.complete else None
    chosen, how = (used.choose(metrics), used.which) if used else (max(metrics), "the newest so far")
    how = how.replace("best:", "best ").replace("epoch:", "epoch ")
    by_sigma = metrics[chosen].get("by_sigma", [])
    charts = training_charts(step, metrics, chosen, used=used is not None)
    page["charts"] = [draw_chart(chart) for chart in charts.by_epoch]
    page["gain"] = [drawn(figure) for figure in charts.gain]
    page["calibration"] = [draw_chart(chart) for chart in charts.calibration]
    page["chosen"] = f"{'used' if used else 'shown'}: epoch {chosen} of {len(step_plan.wanted)} ({how})"
    columns = COLUMNS if "gain" in metrics[chosen] else COLUMNS[:-1]
    page["columns"] = [label for _, label in columns]
    page["epochs"] = [
        (epoch, [_value(values.get(key)) for key, _ in columns], epoch == chosen and bool(used))
        for epoch, values in metrics.items()
    ]
    page["by_sigma"] = [
        [
            f"{level['sigma'][0]:.3g} to {level['sigma'][1]:.3g}",
            f"{level['n']:,}",
            *(_value(level[key]) for key in CALIBRATION),
        ]
        for level in by_sigma
    ]
    return page


def _value(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _used(step: TrainStep, summary: Summary) -> Weights | None:
    """Returns the weights of this training that the recipe uses, None without any. Weights chosen by a metric
    are preferred."""
    taken = {
        reference.which: reference
        for step_plan in summary.plans
        for reference in step_plan.step.inputs().values()
        if isinstance(reference, Weights) and reference.step.variant == step.variant
    }
    return taken[min(taken, key=lambda which: (not which.startswith("best"), which))] if taken else None
