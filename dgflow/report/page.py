"""A run as one self-contained HTML page.

Promises: no request leaves the page, everything that comes from the store is escaped, and the same root gives
    the same bytes (no time of
writing). An incomplete root shows what is there and says what is missing. The numbers are `summary`'s; the
    looks are `page.html`'s.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgflow.engine.plan import StepPlan
from dgflow.engine.root import Root
from dgflow.report.attempts import open_attempts
from dgflow.report.charts import Data, Series, line_chart
from dgflow.report.images import grids
from dgflow.report.layout import duration, labels, number, parts, size
from dgflow.report.summary import (
    Summary,
    comparisons,
    cost_line,
    measured,
    missing,
    notes,
    summarise,
    table_rows,
)
from dgflow.specs.spec import PLACEMENT
from dgflow.specs.step import SampleStep, Step, Weights
from dgflow.specs.train_step import TrainStep
from dgflow.steps.judging.evaluate import Evaluate
from dgflow.store.objects import ObjectStore
from dgflow.store.receipts import Receipt
from dgflow.testing.smoke_root import is_smoke_run

if TYPE_CHECKING:
    from markupsafe import Markup

CALIBRATION = {"loss": "held-out loss", "accuracy": "accuracy", "calibration_error": "calibration error"}
LOG_2 = math.log(2)


def render(target: Step, store: ObjectStore) -> str:
    """The page of `target` in `store`.

    Raises:
        CorruptObject: a receipt or the result cannot be read, or is not what was committed. Damaged images
            are only named on the page.
    """
    from jinja2 import Environment, StrictUndefined

    summary = summarise(target, store)
    receipts = [receipt for made in summary.receipts.values() for receipt in made]
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8")).render(
        title=_title(target, store),
        target=target.name,
        root=store.url,
        commits=f"{_utc(min(r.created for r in receipts))} to {_utc(max(r.created for r in receipts))}"
        if receipts
        else "",
        cost=cost_line(summary),
        missing=missing(summary),
        failures=_failures(summary, store),
        result=_result(summary),
        grids=grids(summary, store),
        trainings=[_training(made, summary) for made in summary.plans if isinstance(made.step, TrainStep)],
        costs=_costs(summary),
        steps=[_details(made, summary, store) for made in summary.plans],
        environments=_environments(summary),
    )


def _title(target: Step, store: ObjectStore) -> str:
    title = f"Evaluation of {_listed(list(target.arms))}" if isinstance(target, Evaluate) else target.title
    return f"Smoke run, nothing to compare with: {title}" if is_smoke_run(store) else title


def _listed(names: list[str]) -> str:
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _result(summary: Summary) -> dict[str, Any] | None:
    if summary.result is None:
        return None
    assert isinstance(summary.target, Evaluate)
    heading, *rows = table_rows(summary)
    per_seed = [
        [
            name,
            "" if seed is None else str(seed),
            *(number(metric, arm[metric]["per_seed"][place]) for metric in measured(summary.result)),
        ]
        for name, arm in ((name, summary.result["arms"][name]) for name in summary.target.arms)
        for place, seed in enumerate(arm["seeds"])
    ]
    return {
        "heading": heading,
        "rows": rows,
        "per_seed": per_seed,
        "notes": notes(summary),
        "comparisons": comparisons(summary),
    }


def _failures(summary: Summary, store: ObjectStore) -> list[dict[str, Any]]:
    """Failed attempts at parts that are still missing."""
    root, found = Root(store), []
    for label, made in zip(
        labels((made.step.title, made.step.name) for made in summary.plans), summary.plans, strict=True
    ):
        if not made.complete:
            attempts = sorted(
                open_attempts(root.step_store(made.step), made.folder, made.missing),
                key=lambda attempt: attempt.part,
            )
            about = {"step": label, "unit": made.unit.removesuffix("s")}
            found += [attempt.failure() | about for attempt in attempts if attempt.has_failed]
    return found


def _training(made: StepPlan, summary: Summary) -> dict[str, Any]:
    """Curves, and calibration by noise level where epochs carry it, of one training step."""
    step, receipts = made.step, summary.receipts[made.step.name]
    assert isinstance(step, TrainStep)
    metrics = {receipt.number: receipt.metrics for receipt in receipts}
    title = f"{step.title}, seed {step.seed}"
    found: dict[str, Any] = {
        "title": title,
        "name": step.name,
        "state": "",
        "charts": [],
        "chosen": "",
        "epochs": [],
        "by_sigma": [],
        "calibration": [],
    }
    if not metrics:
        return found | {"state": f"no epoch yet{f': {made.reason}' if made.reason else ''}"}
    if not made.complete:
        found["state"] = f"{len(made.done):,} of {parts(len(made.wanted), made.unit)} there"
    used = _used(step, summary) if made.complete else None
    chosen, how = (used.choose(metrics), used.which) if used else (max(metrics), "the newest so far")
    how = how.replace("best:", "best ").replace("epoch:", "epoch ")
    losses: tuple[tuple[str, Data], ...] = (("train_loss", "training"), ("held_out_loss", "held-out"))
    series = [
        Series(
            data, [(float(epoch), values[key]) for epoch, values in metrics.items() if key in values], data
        )
        for key, data in losses
    ]
    by_sigma = metrics[chosen].get("by_sigma", [])
    chance = (LOG_2, "chance, log 2") if by_sigma else None
    curves = [one for one in series if one.points]
    if curves:
        mark = (float(chosen), f"epoch {chosen}") if used else None
        found["charts"].append(_chart("loss", curves, x_label="epoch", mark=mark, level=chance))
    accuracy = [
        (float(epoch), values["held_out_accuracy"])
        for epoch, values in metrics.items()
        if "held_out_accuracy" in values
    ]
    if accuracy:
        found["charts"].append(
            _chart(
                "held-out accuracy",
                [Series("held-out", accuracy)],
                x_label="epoch",
                mark=(float(chosen), f"epoch {chosen}") if used else None,
            )
        )
    found["chosen"] = f"{'used' if used else 'shown'}: epoch {chosen} of {len(made.wanted)} ({how})"
    columns = ("train_loss", "held_out_loss", "held_out_accuracy")
    found["epochs"] = [
        [epoch, *(_value(values.get(key)) for key in columns), epoch == chosen and bool(used)]
        for epoch, values in metrics.items()
    ]
    for key, label in CALIBRATION.items() if by_sigma else ():
        points = [(math.sqrt(level["sigma"][0] * level["sigma"][1]), level[key]) for level in by_sigma]
        expected = {"loss": chance, "accuracy": (0.5, "chance")}.get(key)
        found["calibration"].append(
            _chart(label, [Series(label, points)], x_label="sigma", log_x=True, level=expected)
        )
    found["by_sigma"] = [
        [
            f"{level['sigma'][0]:.3g} to {level['sigma'][1]:.3g}",
            f"{level['n']:,}",
            *(_value(level[key]) for key in CALIBRATION),
        ]
        for level in by_sigma
    ]
    return found


def _chart(*arguments: Any, **options: Any) -> Markup:
    from markupsafe import Markup

    return Markup(line_chart(*arguments, **options))  # charts.py escapes its texts


def _value(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _used(step: TrainStep, summary: Summary) -> Weights | None:
    """What the recipe takes of this training, the choice by a metric first."""
    taken = {
        reference.which: reference
        for made in summary.plans
        for reference in made.step.inputs().values()
        if isinstance(reference, Weights) and reference.step.fingerprint == step.fingerprint
    }
    return taken[min(taken, key=lambda which: (not which.startswith("best"), which))] if taken else None


def _costs(summary: Summary) -> dict[str, Any]:
    longest = max((row.seconds for row in summary.steps), default=0.0) or 1.0
    rows = [
        {
            "title": label,
            "done": f"{row.done:,} of {parts(row.wanted, row.unit)}"
            if row.done != row.wanted
            else parts(row.done, row.unit),
            "share": round(100 * row.seconds / longest, 1),
            "work": duration(row.seconds),
            "elapsed": duration(row.elapsed),
            "bytes": size(row.bytes),
            "evaluations": f"{row.evaluations:,}" if row.evaluations else "",
        }
        for label, row in zip(
            labels((row.title, row.name) for row in summary.steps), summary.steps, strict=True
        )
    ]
    evaluations = sum(row.evaluations for row in summary.steps)
    total = {
        "work": duration(sum(row.seconds for row in summary.steps)),
        "bytes": size(sum(row.bytes for row in summary.steps)),
        "evaluations": f"{evaluations:,}",
    }
    return {"rows": rows, "total": total}


def _details(made: StepPlan, summary: Summary, store: ObjectStore) -> dict[str, Any]:
    """A step's whole configuration, and the digests of what it read and made."""
    step = made.step
    steps = Root(store).step_store(step)
    inputs = made.bound.digests if made.bound is not None else {}
    if isinstance(step, SampleStep):
        sealed = [(part, steps.manifest(part.start, part.stop, inputs)) for part in made.node.slices]
        digests = {
            f"[{part.start}:{part.stop}]": manifest.digest
            for part, manifest in sealed
            if manifest is not None
        }
    else:
        digests = {receipt.part: receipt.rows_sha256 for receipt in summary.receipts[step.name]}
    placement = {
        name: getattr(step, name)
        for name, info in type(step).model_fields.items()
        if PLACEMENT in info.metadata
    }
    return {
        "title": step.title,
        "name": step.name,
        "fingerprint": step.fingerprint,
        "document": json.dumps(step.document(), indent=2, ensure_ascii=False),
        "placement": placement,
        "inputs": inputs,
        "digests": digests,
    }


def _environments(summary: Summary) -> list[dict[str, Any]]:
    """The devices and versions under which parts were made, with how many parts."""

    def where(receipt: Receipt) -> tuple[str, str]:
        return receipt.device, ", ".join(
            f"{name} {version}" for name, version in sorted(receipt.versions.items())
        )

    counts = Counter(where(receipt) for receipts in summary.receipts.values() for receipt in receipts)
    return [
        {"device": device, "versions": versions, "parts": f"{count:,}"}
        for (device, versions), count in sorted(counts.items())
    ]
