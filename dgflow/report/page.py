"""Renders a run as one self-contained HTML page.

The page makes no request, and everything that comes from the store is escaped. The same root gives the same
bytes, since the page does not hold the time of writing. The page of an incomplete root shows the committed
and the missing parts. While a run is in progress, the page shows the time and reloads itself. `page.html`
has the sections, `style.html` the styles.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from dgflow.engine.plan import StepPlan
from dgflow.engine.root import Root
from dgflow.report.asked import recipe_facts
from dgflow.report.attempts import open_attempts
from dgflow.report.html import rendered
from dgflow.report.images import grids
from dgflow.report.layout import labelled, listed
from dgflow.report.own_receipts import own_receipts
from dgflow.report.page_file import NO_INDEX
from dgflow.report.result_section import figure_sections, result
from dgflow.report.runs_text import at_work_lines
from dgflow.report.summary import Summary, cost_line, missing, summarise
from dgflow.report.timeline import timeline
from dgflow.report.training_section import training
from dgflow.report.verdict import verdict
from dgflow.specs.spec import PLACEMENT
from dgflow.specs.step import SampleStep, Target
from dgflow.specs.train_step import TrainStep
from dgflow.steps.judging.evaluate import Evaluate
from dgflow.store.objects import ObjectStore
from dgflow.store.receipts import Receipt
from dgflow.store.runs import Asked, newest

REFRESH_SECONDS = 30  # time between reloads of the page of a run in progress


def render(target: Target, store: ObjectStore, asked: Asked | None = None) -> str:
    """Returns the page of `target` in `store`.

    Raises CorruptObject for damaged receipts or results. Damaged images are reported on the page instead.

    Args:
        asked: the description of the recipe, used if the root has no record of a run of it.
    """
    summary = summarise(target, store)
    record = newest(store, target.name)
    recipe = recipe_facts(record, asked)
    source = asked if record is None else record.asked
    at_work = [] if summary.complete else at_work_lines(target, store)
    return rendered(
        "page.html",
        title=_title(summary, source),
        tagline="" if source is None else source.headline,
        target=target.name,
        recipe=recipe,
        facts=recipe["facts"] if recipe else [],
        about=_about(summary, store),
        index=NO_INDEX,
        missing=missing(summary),
        progress={"done": sum(each.complete for each in summary.plans), "of": len(summary.plans)},
        at_work=at_work,
        ended="" if at_work or record is None or record.outcome in (None, "done") else record.outcome,
        refresh=REFRESH_SECONDS,
        now=_utc(store.now()),
        failures=_failures(summary, store),
        verdict=verdict(summary),
        result=result(summary),
        figures=figure_sections(summary, store),
        grids=grids(summary, store),
        trainings=[
            training(step_plan, summary)
            for step_plan in summary.plans
            if isinstance(step_plan.step, TrainStep)
        ],
        cost=cost_line(summary),
        costs=timeline(summary),
        steps=[_details(step_plan, summary, store) for step_plan in summary.plans],
        environments=_environments(summary),
    )


def _title(summary: Summary, asked: Asked | None) -> str:
    """Returns the recipe's name, or a description of the target if the recipe's name is unknown."""
    target = summary.target
    title = f"Evaluation of {listed(list(target.arms))}" if isinstance(target, Evaluate) else target.title
    title = title[:1].upper() + title[1:]
    if asked is not None and (asked.recipe or asked.file):
        title = asked.recipe or str(asked.file)
    return f"Smoke run, meaningless results: {title}" if summary.is_smoke else title


def _about(summary: Summary, store: ObjectStore) -> list[tuple[str, str]]:
    """Returns pairs of name and text: the root, the last step, and the times of the first and last commit."""
    facts = [("root", store.url), ("last step", summary.target.name)]
    times = [receipt.created for receipts in summary.receipts.values() for receipt in receipts]
    return [*facts, *([("committed", f"{_utc(min(times))} to {_utc(max(times))}")] if times else [])]


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _failures(summary: Summary, store: ObjectStore) -> list[dict[str, Any]]:
    """Returns failed attempts at parts that are still missing."""
    root, failures = Root(store), []
    for label, step_plan in labelled(summary.plans):
        if not step_plan.complete:
            attempts = open_attempts(root.step_store(step_plan.step), step_plan.folder, step_plan.missing)
            about = {"step": label, "unit": step_plan.unit.removesuffix("s")}
            failed = [attempt.failure() | about for attempt in attempts if attempt.has_failed]
            failures += sorted(failed, key=lambda failure: failure["part"])
    return failures


def _details(step_plan: StepPlan, summary: Summary, store: ObjectStore) -> dict[str, Any]:
    """Returns a step's whole configuration, and the digests of its inputs and results."""
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
    """Returns the number of parts made with each device and set of versions."""

    def where(receipt: Receipt) -> tuple[str, str]:
        return receipt.device, ", ".join(
            f"{name} {version}" for name, version in sorted(receipt.versions.items())
        )

    counts = Counter(where(receipt) for receipts in summary.receipts.values() for receipt in receipts)
    return [
        {"device": device, "versions": versions, "parts": f"{count:,}"}
        for (device, versions), count in sorted(counts.items())
    ]
