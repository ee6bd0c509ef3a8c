"""A run as one self-contained HTML page.

No request leaves the page, everything that comes from the store is escaped, and the same root gives the same
bytes (no time of writing). An incomplete root shows what is there and what is missing; while a run is at work
on it the page says so, with the time, and loads itself again. `page.html` has the looks.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dgflow.engine.plan import StepPlan
from dgflow.engine.root import Root
from dgflow.report.asked import recipe_facts
from dgflow.report.attempts import open_attempts
from dgflow.report.images import grids
from dgflow.report.layout import duration, labelled, labels, listed, parts, size
from dgflow.report.own_receipts import own_receipts
from dgflow.report.result_section import figure_sections, result
from dgflow.report.runs_text import at_work_lines
from dgflow.report.summary import Summary, cost_line, missing, summarise
from dgflow.report.training_section import training
from dgflow.specs.spec import PLACEMENT
from dgflow.specs.step import SampleStep, Target
from dgflow.specs.train_step import TrainStep
from dgflow.steps.judging.evaluate import Evaluate
from dgflow.store.objects import ObjectStore
from dgflow.store.receipts import Receipt
from dgflow.store.runs import Asked, newest
from dgflow.testing.smoke_root import is_smoke_run

REFRESH_SECONDS = 30  # after which a page of a run at work loads itself again


def render(target: Target, store: ObjectStore, asked: Asked | None = None) -> str:
    """The page of `target` in `store`. Raises CorruptObject as `summarise`; damaged images are only named.

    `asked` describes the recipe where the root has no record of a run of it.
    """
    from jinja2 import Environment, StrictUndefined

    summary = summarise(target, store)
    times = [receipt.created for receipts in summary.receipts.values() for receipt in receipts]
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8")).render(
        title=_title(target, store),
        target=target.name,
        recipe=recipe_facts(newest(store, target.name), asked),
        root=store.url,
        commits=f"{_utc(min(times))} to {_utc(max(times))}" if times else "",
        cost=cost_line(summary),
        missing=missing(summary),
        at_work=[] if summary.complete else at_work_lines(target, store),
        refresh=REFRESH_SECONDS,
        now=_utc(store.now()),
        failures=_failures(summary, store),
        result=result(summary),
        figures=figure_sections(summary, store),
        grids=grids(summary, store),
        trainings=[
            training(step_plan, summary)
            for step_plan in summary.plans
            if isinstance(step_plan.step, TrainStep)
        ],
        costs=_costs(summary),
        steps=[_details(step_plan, summary, store) for step_plan in summary.plans],
        environments=_environments(summary),
    )


def _title(target: Target, store: ObjectStore) -> str:
    title = f"Evaluation of {listed(list(target.arms))}" if isinstance(target, Evaluate) else target.title
    title = title[:1].upper() + title[1:]
    return f"Smoke run, nothing to compare with: {title}" if is_smoke_run(store) else title


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _failures(summary: Summary, store: ObjectStore) -> list[dict[str, Any]]:
    """Failed attempts at parts that are still missing."""
    root, failures = Root(store), []
    for label, step_plan in labelled(summary.plans):
        if not step_plan.complete:
            attempts = open_attempts(root.step_store(step_plan.step), step_plan.folder, step_plan.missing)
            about = {"step": label, "unit": step_plan.unit.removesuffix("s")}
            failed = [attempt.failure() | about for attempt in attempts if attempt.has_failed]
            failures += sorted(failed, key=lambda failure: failure["part"])
    return failures


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


def _details(step_plan: StepPlan, summary: Summary, store: ObjectStore) -> dict[str, Any]:
    """A step's whole configuration, and the digests of what it read and made."""
    step = step_plan.step
    step_store = Root(store).step_store(step)
    inputs = step_plan.bound.digests if step_plan.bound is not None else {}
    if isinstance(step, SampleStep):
        manifests = [step_store.manifest(part.start, part.stop, inputs) for part in step_plan.node.slices]
        digests = {f"[{each.start}:{each.stop}]": each.digest for each in manifests if each is not None}
    else:
        digests = {receipt.part: receipt.rows_sha256 for receipt in own_receipts(summary.receipts, step)}
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
        "choices": step_plan.choices,
        "digests": digests,
    }


def _environments(summary: Summary) -> list[dict[str, Any]]:
    """The devices and versions with which parts were made, and the number of parts."""

    def where(receipt: Receipt) -> tuple[str, str]:
        return receipt.device, ", ".join(
            f"{name} {version}" for name, version in sorted(receipt.versions.items())
        )

    counts = Counter(where(receipt) for receipts in summary.receipts.values() for receipt in receipts)
    return [
        {"device": device, "versions": versions, "parts": f"{count:,}"}
        for (device, versions), count in sorted(counts.items())
    ]
