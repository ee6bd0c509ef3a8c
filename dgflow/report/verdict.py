"""The first screen of the page, in words and as a plot of the arms: whether guidance helped, by how much, and
with what certainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from dgflow.report.effects import Arms, Effect, base_of, effects
from dgflow.report.figures.dots import Dot, Dots, draw_dots
from dgflow.report.layout import with_spread
from dgflow.report.summary import FLOOR, Summary
from dgflow.report.sweep_effects import Variants, variants
from dgflow.specs.figures import Metric
from dgflow.specs.step import ResultStep
from dgflow.steps.judging.evaluate import Evaluate
from dgflow.steps.judging.refinement_values import COVERAGE
from dgflow.steps.sweeping.sweep import SelectedSweep, Sweep

GREY = 7  # number of the style sheet's colour for the base arm and for real images
MOST = 8  # maximum number of variants of a sweep in the plot
INTERVAL = f"{COVERAGE:.0%} interval"

HEADS = {
    "better": "Better",
    "worse": "Worse",
    "unclear": "No clear difference",
    "unknown": "Difference without an interval",
}


def verdict(summary: Summary) -> dict[str, Any] | None:
    """Returns the verdict on the recipe's arms, or on the variants of a sweep; None without a comparison, and
    for a smoke run.

    The keys are `kind` (a key of `HEADS`, or "mixed"), `head`, `number` (the change or the range of changes),
    `unit`, `lines` (sentences), `how` (the interval and its method) and `figure`.
    """
    outcome = None if summary.is_smoke else summary.outcome
    if outcome is not None and isinstance(outcome.step, Sweep | SelectedSweep):
        found = variants(outcome.step, outcome.content)
        return None if found is None else _of_sweep(found)
    if outcome is None or not (found := effects(outcome.step, outcome.arms)):
        return None
    kinds = {each.verdict for each in found}
    kind = next(iter(kinds)) if len(kinds) == 1 else "mixed"
    number = found[0].signed
    if len(found) > 1:
        low, *_, high = sorted(found, key=lambda each: each.change)
        number = f"{low.signed} to {high.signed}"
    lines = [*map(sentence, found)] if len(found) <= 3 else [_together(found)]
    return _verdict(kind, HEADS.get(kind) or _counts(found), number, lines, found, effect_dots(found))


def _of_sweep(found: Variants) -> dict[str, Any]:
    """Returns the verdict on the best variant, with the reason why it looks better than it is."""
    best, shown = found.best, found.effects[:MOST]
    head = HEADS[best.verdict]
    if not found.is_independent:
        head = f"Best of {len(found.effects)} variants: {head[:1].lower()}{head[1:]}"
    lines = [sentence(best), *([found.remark] if found.remark else [])]
    if len(found.effects) > MOST:
        lines.append(f"The plot has the {MOST} best variants.")
    dots = effect_dots(shown, found.labels[:MOST])
    return _verdict(best.verdict, head, best.signed, lines, [best], dots)


def _verdict(
    kind: str, head: str, number: str, lines: Sequence[str], found: Sequence[Effect], dots: Dots
) -> dict[str, Any]:
    """Returns what `verdict` returns; `found` are the effects that the words are about."""
    return {
        "kind": kind,
        "head": head,
        "number": number,
        "unit": f"{found[0].metric.heading} against {found[0].base}",
        "lines": lines,
        "how": _how(found),
        "figure": Markup(draw_dots(dots).element),
    }


def sentence(effect: Effect) -> str:
    """Formats an effect as a sentence, such as `guided lowers FID from 3.19 to 1.41.`"""
    verb = "lowers" if effect.change < 0 else "raises" if effect.change > 0 else "keeps"
    metric = effect.metric
    before, after = metric.shown(effect.before), metric.shown(effect.after)
    return f"{effect.arm} {verb} {metric.heading} from {before} to {after}."


def _how(found: Sequence[Effect]) -> str:
    """Returns a sentence with the interval and its method, or with the reason why there is no interval."""
    first = found[0]
    if first.half is None:
        return f"{first.how[:1].upper()}{first.how[1:]}."
    if len(found) == 1:
        return f"{INTERVAL} {first.ends}, {first.how}."
    return f"{INTERVAL}s, {first.how}."


def _together(found: Sequence[Effect]) -> str:
    metric = found[0].metric
    lower = sum(each.change < 0 for each in found)
    sure = sum(each.verdict in ("better", "worse") for each in found)
    return (
        f"{metric.heading} is lower than in {found[0].base} in {lower} of {len(found)} arms; the interval "
        f"excludes 0 in {sure}."
    )


def _counts(found: Sequence[Effect]) -> str:
    better = sum(each.verdict == "better" for each in found)
    return f"Better in {better} of {len(found)} arms"


def effect_dots(found: Sequence[Effect], labels: Sequence[str] = ()) -> Dots:
    """Returns a plot of the changes of one metric, one row per effect, against the line of no change. Rows
    are labelled with their arms, or with `labels`."""
    metric = found[0].metric
    rows = [
        Dot(label, each.change, each.words, each.half)
        for label, each in zip(labels or [each.arm for each in found], found, strict=True)
    ]
    better = "" if metric.nearest else f"; {metric.better} is better"
    return Dots("", rows, f"change of {metric.heading}{better}", (0.0, "no change"))


def arm_plots(summary: Summary) -> list[Markup]:
    """Returns a plot per quantity: every arm with its mean, spread and single seeds, and the floor if it was
    measured."""
    outcome = summary.outcome
    if outcome is None or len(outcome.arms) < 2:
        return []
    floor = (outcome.plain or {}).get("floor") if isinstance(outcome.step, Evaluate) else None
    drawn = (
        draw_dots(_arms(outcome.step, outcome.arms, name, metric, floor))
        for name, metric in outcome.shown.items()
    )
    return [Markup(f"<figure>{each.element}</figure>") for each in drawn]


def _arms(step: ResultStep, arms: Arms, name: str, metric: Metric, floor: Mapping[str, Any] | None) -> Dots:
    base = base_of(step, arms)
    rows = [
        Dot(
            arm,
            values[name]["mean"],
            with_spread(values[name], metric.decimals),
            values[name]["spread"],
            values[name]["per_seed"] if len(values[name]["per_seed"]) > 1 else (),
            GREY if arm == base else 0,
        )
        for arm, values in arms.items()
        if name in values
    ]
    if floor and name in floor:
        rows.append(Dot(FLOOR, floor[name], metric.shown(floor[name]), colour=GREY))
    return Dots(metric.heading, rows, f"{metric.heading}; {metric.better} is better")
