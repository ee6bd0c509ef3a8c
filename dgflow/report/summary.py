"""The outcome of a recipe: the table of its arms and the cost of each step, as text and as JSON.

Numbers are shown as committed, after their checksum was verified. Missing parts are listed, and missing
values are never filled in. Every receipt of the recipe's steps is read once.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dgflow.diffusion.guidance_specs import DiscriminatorGuidance
from dgflow.engine.plan import StepPlan, plan
from dgflow.engine.root import Root
from dgflow.metrics.protocols import DECIMALS
from dgflow.report.doubts import choice_doubts, doubts
from dgflow.report.effects import base_of, guidance_of
from dgflow.report.figures.table import starred
from dgflow.report.layout import duration, in_blocks, labelled, number, own_error, parts, with_spread
from dgflow.report.outcome import Outcome, has_figures, outcome_of
from dgflow.report.own_receipts import all_receipts, own_receipts
from dgflow.report.product import Product, product
from dgflow.report.timings import timing_table, timings
from dgflow.runtime.terminal import UNLIMITED, terminal_width, wrapped
from dgflow.specs.figures import Metric, Table, directions
from dgflow.specs.step import Reference, Result, SampleStep, Slice, Step, Target, Weights
from dgflow.specs.train_step import TrainStep
from dgflow.steps.encode import Encode
from dgflow.steps.judging.evaluate import Evaluate
from dgflow.steps.sources.image_set import ImageSet
from dgflow.store.identity import canonical_json
from dgflow.store.objects import ObjectStore
from dgflow.store.receipts import Receipt
from dgflow.testing.smoke_root import MEANINGLESS, is_smoke_run

FLOOR = "real against real"


@dataclass(frozen=True)
class StepRow:
    """The number of parts of one step, and their cost."""

    name: str
    title: str
    kind: str
    fingerprint: str
    unit: str
    done: int
    wanted: int
    bytes: int
    seconds: float  # of work, summed over all workers
    elapsed: float  # from the first start to the last commit, including pauses between two runs
    evaluations: int  # of the sampler's or the judge's network; 0 for training


@dataclass(frozen=True)
class Summary:
    """The state of a recipe in a root.

    `result` is the committed result of `Evaluate.compute`, else None. `receipts` are those of `all_receipts`.
    `outcome` is the result file of the last step, None while that step is incomplete and for steps without
    one. `is_smoke` is true for the root of a smoke run.
    """

    target: Target
    plans: list[StepPlan]
    result: dict[str, Any] | None
    steps: list[StepRow]
    receipts: dict[str, list[Receipt]] = field(repr=False)
    product: Product | None = None  # of a target that is not an evaluation, None while incomplete
    outcome: Outcome | None = None
    is_smoke: bool = False

    @property
    def complete(self) -> bool:
        return self.plans[-1].complete


def summarise(target: Target, store: ObjectStore) -> Summary:
    """Returns the summary of `target` and its steps in `store`. Raises CorruptObject for damaged receipts or
    results."""
    root, plans = Root(store), plan(target, store)
    receipts = all_receipts(plans, root)
    outcome = outcome_of(plans[-1], store)
    evaluated = isinstance(target, Evaluate)
    return Summary(
        target,
        plans,
        outcome.plain if evaluated and outcome is not None else None,
        [_row(step_plan, own_receipts(receipts, step_plan.step)) for step_plan in plans],
        receipts,
        None if evaluated else product(target, plans[-1], store),
        outcome,
        is_smoke_run(store),
    )


def _row(step_plan: StepPlan, receipts: list[Receipt]) -> StepRow:
    step = step_plan.step
    samples = sum((receipt.stop or 0) - (receipt.start or 0) for receipt in receipts)
    return StepRow(
        name=step.name,
        title=step.title,
        kind=step.kind,
        fingerprint=step.fingerprint,
        unit=step_plan.unit,
        done=len(step_plan.done),
        wanted=len(step_plan.wanted),
        bytes=sum(receipt.bytes for receipt in receipts),
        seconds=sum(map(worker_seconds, receipts)),
        elapsed=elapsed(receipts),
        evaluations=step.network_evaluations(samples) if isinstance(step, SampleStep) else 0,
    )


def worker_seconds(receipt: Receipt) -> float:
    """Returns the cost of a part in worker-seconds. The receipt of an epoch holds the time that its workers
    took in parallel, so that time is multiplied by their number."""
    return receipt.seconds * receipt.metrics.get("workers", 1)


def elapsed(receipts: list[Receipt]) -> float:
    """Returns the seconds from the first start to the last commit, by the writers' clocks."""
    starts = (receipt.created - receipt.seconds for receipt in receipts)
    return max(receipt.created for receipt in receipts) - min(starts) if receipts else 0.0


def as_json(summary: Summary) -> dict[str, Any]:
    """Returns the summary as JSON data.

    - `arms`, `floor` and `reference` are those of an evaluation, empty while the result is missing. The
      `arms` of another comparison are those of its result.
    - `steps` maps names to the state of each step; a `Cost` step also has `seconds_per_sample` by arm.
    - `made`, for a recipe that ends with samples, weights or another result, says where they are.
    - `result`, for such a recipe, is the content of a JSON result file.
    """
    result = summary.result or {"arms": {}, "floor": {}, "reference": {}}
    steps = {
        row.name: {
            "fingerprint": row.fingerprint,
            "seconds": row.seconds,
            "shards": row.done,
            "title": row.title,
            "elapsed": row.elapsed,
            "bytes": row.bytes,
        }
        for row in summary.steps
    }
    for name, arms in timings(summary.plans, summary.receipts).items():
        steps[name] |= {"seconds_per_sample": {arm: each.seconds for arm, each in arms.items()}}
    outcome = {"arms": result["arms"], "floor": result["floor"] or {}, "reference": result["reference"]}
    if summary.product is None:
        return outcome | {"steps": steps}
    own: dict[str, Any] = {"made": summary.product.made}
    if summary.outcome is not None:
        outcome["arms"] = summary.outcome.arms
        own |= {} if summary.outcome.plain is None else {"result": summary.outcome.plain}
    return outcome | {"steps": steps} | own


def table(summary: Summary) -> str:
    """Returns the result as text: a row per arm, the floor, notes, and the change by guidance. While the
    result is incomplete, it returns the list of missing parts."""
    if summary.product is not None:
        tables = [] if summary.outcome is None else [*summary.outcome.tables, *_timing_tables(summary)]
        return "\n".join([*map(table_text, tables), *notes(summary)])
    if summary.result is None:
        return "\n".join(["no result yet", *(f"  {line}" for line in missing(summary))])
    times = [line for each in _timing_tables(summary) for line in ("", table_text(each).rstrip())]
    width = terminal_width(UNLIMITED)
    below = [*notes(summary), *comparisons(summary)]
    lines = [line for each in below for line in wrapped(each, hanging="  ", width=width)]
    return "\n".join([*in_blocks(table_rows(summary)), "", *lines, *times])


def _timing_tables(summary: Summary) -> list[Table]:
    """Returns the table of seconds per sample. The list is empty for several `Cost` steps, as in a sweep,
    whose combinations have arms of the same names."""
    found = list(timings(summary.plans, summary.receipts).values())
    return [timing_table(found[0])] if len(found) == 1 and found[0] else []


def table_text(figure: Table) -> str:
    """Returns a table of a figure as text: title, rows, note and an empty line."""
    title = [figure.title] if figure.title else []
    note = [line for each in figure.note.splitlines() for line in wrapped(each, hanging="  ")]
    return "\n".join([*title, *in_blocks(starred(figure)), *note, ""])


def table_rows(summary: Summary) -> list[list[str]]:
    """Returns the cells of the table: the heading, the arms in the recipe's order, and the floor if it was
    measured."""
    result, target = summary.result, summary.target
    assert result is not None and isinstance(target, Evaluate)
    shown = measured(target, result)
    rows = [["", *(metric.heading for metric in shown.values()), "samples", "seeds"]]
    for name in target.arms:
        arm = result["arms"][name]
        cells = [
            with_spread(arm[key], metric.decimals) if key in arm else "" for key, metric in shown.items()
        ]
        rows.append([name, *cells, f"{arm['n']:,}", f"{len(arm['seeds'])}"])
    floor = result["floor"]
    if floor is None:
        return rows
    cells = [metric.shown(floor[key]) if key in floor else "" for key, metric in shown.items()]
    return [*rows, [FLOOR, *cells, f"{floor['n']:,}", ""]]


def measured(target: Evaluate, result: Mapping[str, Any]) -> dict[str, Metric]:
    """Returns the metrics that the result holds for at least one arm, in the table's order."""
    arms = result["arms"].values()
    return {key: metric for key, metric in target.columns.items() if any(key in arm for arm in arms)}


def notes(summary: Summary) -> list[str]:
    """Returns the notes below the table, one sentence each, then the warnings. The notes are the conditions
    of the measurement, or the product of a recipe that is not an evaluation."""
    if summary.product is not None:
        return [*summary.product.lines, *_warnings(summary, [])]
    target, result = summary.target, summary.result
    assert result is not None and isinstance(target, Evaluate)
    samples = next(iter(result["arms"].values()))["n"]
    seeds = max(len(arm) for arm in target.arms.values())
    spread = f"mean ± sample standard deviation over {seeds} sampling seeds"
    if seeds == 1:
        spread = "one sampling seed, so the spread over seeds is unknown"
        if any(
            own_error(arm[key]) is not None
            for arm in result["arms"].values()
            for key in target.quantities
            if key in arm
        ):
            spread += "; ± is the standard error estimated from the samples"
    better = directions(measured(target, result).values())
    lines = [f"{spread}; {better}", *_references(summary, target)]
    if target.floor is not None:
        nearest = "" if target.floor.rows == samples else f", the available n nearest to {samples:,}"
        lines.append(f"{FLOOR}: {_images(target.floor)}, {_seen(summary, target.floor)}{nearest}")
    for name, arm in result["arms"].items():
        if lowest := arm.get("lowest"):
            lines.append(f"{name}: FID {number('fid', lowest['fid'])}, {lowest['label']}")
    for step_plan in summary.plans:
        lines += [f"{step_plan.step.title}: {name}: {each}" for name, each in step_plan.choices.items()]
    measured_with = (line for arm in result["arms"].values() for line in arm.get("warnings", []))
    of_floor = (f"{FLOOR}: {line}" for line in (result["floor"] or {}).get("warnings", []))
    return [*lines, *_warnings(summary, [*measured_with, *of_floor])]


def _references(summary: Summary, target: Evaluate) -> list[str]:
    how = "" if target.protocol is None else f"protocol {target.protocol}; "
    if target.statistics is None:
        assert target.reference is not None
        return [f"{how}reference: {_images(target.reference)}, {_seen(summary, target.reference)}"]
    also = "" if target.reference is None else f"; for precision and recall {_images(target.reference)}"
    if isinstance(target.statistics, Result):
        return [f"{how}reference: the published {target.statistics.step.title}{also}"]
    return [f"{how}reference: the statistics in {target.statistics.title}{also}"]


def _images(part: Slice | ImageSet) -> str:
    if isinstance(part, ImageSet):
        return f"{part.rows:,} images of {part.title}"
    return f"{part.rows:,} real images [{part.start}:{part.stop}]"


def _seen(summary: Summary, part: Slice | ImageSet) -> str:
    """Returns the recipe's kinds of training that used any of these images, in words."""
    if isinstance(part, ImageSet):
        return "from outside the root"
    by = [
        step_plan.step.kind
        for step_plan in summary.plans
        if isinstance(step_plan.step, TrainStep)
        for read in map(_images_of, step_plan.step.inputs().values())
        if isinstance(read, Slice)
        and read.step.fingerprint == part.step.fingerprint
        and read.start < part.stop
        and part.start < read.stop
    ]
    return f"seen in training ({', '.join(dict.fromkeys(by))})" if by else "unseen in training"


def _images_of(read: Reference) -> Reference:
    """Returns the images behind a slice of encoded images; any other reference unchanged."""
    if not isinstance(read, Slice) or not isinstance(read.step, Encode):
        return read
    images = read.step.images
    return Slice(step=images.step, start=images.start + read.start, stop=images.start + read.stop)


def comparisons(summary: Summary) -> list[str]:
    """Returns sentences that compare the FID of every arm with that of the base (`base_of`), with the spreads
    over seeds. Arms whose discriminators differ only in their seed also get a sentence together. The list is
    empty for a smoke run."""
    if summary.is_smoke:
        return []
    target, result = summary.target, summary.result
    assert result is not None and isinstance(target, Evaluate)
    arms = result["arms"]
    base = base_of(target, arms)
    lines = [_change(name, arms[name]["fid"], arms[base]["fid"]) for name in target.arms if name != base]
    families: dict[str, list[str]] = {}
    for name in target.arms:
        if name != base and guidance_of(target, name):
            families.setdefault(_but_for_discriminator_seed(target.arms[name]), []).append(name)
    for names in families.values():
        if len(names) > 1:
            means = [arms[name]["fid"]["mean"] for name in names]
            over = {"mean": statistics.fmean(means), "spread": statistics.stdev(means)}
            lines.append(
                f"over {len(names)} discriminator seeds ({', '.join(names)}): FID "
                f"{with_spread(over, DECIMALS['fid'])}, spread of the arms' means"
            )
            lines.append(_change("their mean", over, arms[base]["fid"]))
    return lines


def _change(name: str, fid: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    change = fid["mean"] - base["mean"]
    from_to = f"{number('fid', base['mean'])} to {number('fid', fid['mean'])}"
    how = f"{name} {'lowers' if change <= 0 else 'raises'} FID by {number('fid', abs(change))} ({from_to})"
    if fid["spread"] is None or base["spread"] is None:
        own, other = own_error(fid), own_error(base)
        if own is None or other is None:
            return f"{how}; the spread over seeds is unknown"
        error = number("fid", math.hypot(own, other))
        return f"{how}; the standard error of the change is {error}, and the spread over seeds is unknown"
    return f"{how}; the sum of the two spreads is {number('fid', fid['spread'] + base['spread'])}"


def _but_for_discriminator_seed(arm: tuple[Slice, ...]) -> str:
    """Returns a canonical text of an arm without the training seeds of its discriminators. The text is equal
    for arms that differ only in these seeds."""
    documents = []
    for part in (each.origin for each in arm):
        document = part.step.document()
        for plain, term in zip(
            document["fields"]["guidance"], getattr(part.step, "guidance", ()), strict=True
        ):
            if not isinstance(term, DiscriminatorGuidance):
                continue
            if isinstance(term.weight, Result):  # chosen by the Gain of these discriminators
                gain = term.weight.step.document()
                del gain["fields"]["discriminator"]
                plain["weight"]["fingerprint"] = gain
            single = isinstance(term.discriminator, Weights)
            named = [plain["discriminator"]] if single else plain["discriminator"]
            for reference, weights in zip(named, term.guides, strict=True):
                if isinstance(weights.step, TrainStep):
                    discriminator = weights.step.document()
                    del discriminator["fields"]["seed"]
                    reference["fingerprint"] = discriminator
        documents.append([document, part.start, part.stop])
    return canonical_json(documents)


def _warnings(summary: Summary, of_result: Sequence[str]) -> list[str]:
    """Returns the warnings of the result and of the steps, each once. A smoke run has a single one."""
    if summary.is_smoke:
        return [f"warning: {MEANINGLESS}"]
    of_steps = [*doubts(summary.plans, summary.receipts), *choice_doubts(summary.plans)]
    return [f"warning: {line}" for line in dict.fromkeys([*of_result, *of_steps])]


def missing(summary: Summary) -> list[str]:
    """Returns a line per incomplete step, and a line that explains why a recipe has no table."""
    lines = []
    for label, step_plan in labelled(summary.plans):
        if not step_plan.complete:
            why = f" ({step_plan.reason})" if step_plan.reason and step_plan.action != "extend" else ""
            state = f"all {step_plan.unit} committed, but not sealed yet"
            if step_plan.missing:
                state = f"{len(step_plan.done):,} of {parts(len(step_plan.wanted), step_plan.unit)} committed"
            lines.append(f"{label}: {state}{why}")
    last = summary.target
    if isinstance(last, Step) and not isinstance(last, Evaluate) and not has_figures(last):
        lines.append(f"the recipe ends with {last.kind}, which has no table; for a table, end with Evaluate")
    return lines


def cost_line(summary: Summary) -> str:
    """Returns the cost of the whole recipe as one line."""
    everything = [receipt for receipts in summary.receipts.values() for receipt in receipts]
    work = duration(sum(row.seconds for row in summary.steps))
    return f"{work} of worker time, {duration(elapsed(everything))} from the first start to the last commit"
