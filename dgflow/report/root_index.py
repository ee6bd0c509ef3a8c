"""The index of a root that holds several variants: the page of each variant, its options, and the effects of
its arms. It is made from the records of runs and the files of their last steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from dgflow.engine.recorded import RecordedRoot
from dgflow.report.effects import Effect, effects
from dgflow.report.figures.dots import draw_dots
from dgflow.report.html import rendered
from dgflow.report.page_file import page_of
from dgflow.report.runs_text import Variant, seen_steps, variants
from dgflow.report.verdict import INTERVAL, effect_dots
from dgflow.specs.step import ResultStep
from dgflow.steps.kinds import load_kinds
from dgflow.store.objects import ObjectStore
from dgflow.store.receipts import CorruptObject
from dgflow.testing.smoke_root import is_smoke_run


def render_index(store: ObjectStore) -> str | None:
    """Returns the index page, latest variant first; None for a root with fewer than two variants. A variant
    whose result was removed is left out. The root of a smoke run gets no effects."""
    now = store.now()
    names = store.names()
    found = [
        each
        for each in reversed(variants(store, now))
        if each.outcome != "done" or each.record.target in names
    ]
    if len(found) < 2:
        return None
    load_kinds()  # the other variants' recipes are not imported
    steps = seen_steps(found, store, names)
    root, is_smoke = RecordedRoot(store), is_smoke_run(store)
    labels = _labels([each.record.asked for each in found])
    rows: list[list[Any]] = []
    by_metric: dict[str, list[tuple[str, Effect]]] = {}
    for label, variant in zip(labels, found, strict=True):
        record, own = variant.record, steps[variant.record.goal]
        changed = [] if is_smoke else _effects(root, variant)
        for each in changed:
            title = label if len(changed) == 1 else f"{label}, {each.arm}"
            by_metric.setdefault(f"{each.metric.heading} against {each.base}", []).append((title, each))
        begun = f"{sum(step.complete for step in own)} of {len(own)} steps done"
        state = variant.outcome if variant.outcome == "done" else f"{variant.outcome}; {begun}"
        about = [state, _day(record.started)]
        link = _link(record.target, label, names)
        shown = [_cells(each) for each in changed] or [["", "", "", ""]]
        rows += [[link, *cells, *about] for cells in shown]
    return rendered(
        "index.html",
        title="Variants of this root",
        tagline=f"{len(found)} recipes or settings of recipes, the latest first",
        root=store.url,
        interval=INTERVAL,
        heading=["variant", "arm", "metric", "value", f"change ({INTERVAL})", "state", "started, UTC"],
        rows=rows,
        figures=[_figure(title, each) for title, each in by_metric.items()],
    )


def _figure(title: str, found: Sequence[tuple[str, Effect]]) -> dict[str, Any]:
    dots = effect_dots([each for _, each in found], [label for label, _ in found])
    return {"title": title, "drawn": Markup(draw_dots(dots).element)}


def _cells(effect: Effect) -> list[str]:
    return [effect.arm, effect.metric.heading, effect.metric.shown(effect.after), effect.words]


def _effects(root: RecordedRoot, variant: Variant) -> list[Effect]:
    """Returns the effects in the file of the variant's last step. The list is empty if the file is missing or
    damaged, or if this version does not know the kind of step."""
    try:
        step = root.step(variant.record.target)
        receipts = root.newest(step) if isinstance(step, ResultStep) else {}
        if not isinstance(step, ResultStep) or not receipts:
            return []
        content = root.recorded(step.name).step_store.read(receipts[max(receipts)])
        return effects(step, step.compared(content))
    except (ValueError, CorruptObject):
        return []


def _labels(asked: Sequence[Any]) -> list[str]:
    """Returns a label per variant: its recipe, and the options that differ among variants of that recipe."""
    out = []
    for own in asked:
        same = [each.options for each in asked if each.recipe == own.recipe]
        differing = [
            name for name in own.options if any(each.get(name) != own.options[name] for each in same)
        ]
        given = own.model_copy(update={"changed": tuple(differing)}).given
        out.append(f"{own.recipe or own.file or 'a run'} {given}".strip())
    return out


def _link(target: str, label: str, names: Sequence[str] | Mapping[str, Any]) -> Markup | str:
    page = page_of(target)
    return Markup('<a href="{}">{}</a>').format(page, label) if page in names else label


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
