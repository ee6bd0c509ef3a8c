"""Estimates the mean cost of a sample, an epoch or a result from some receipts of each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from dgflow.engine.plan import StepPlan
from dgflow.engine.root import Root
from dgflow.report.layout import evenly
from dgflow.report.summary import worker_seconds
from dgflow.specs.step import SampleStep, Step
from dgflow.store.objects import ObjectStore

ESTIMATE_SAMPLE = 16  # maximum number of receipts read per step


@dataclass(frozen=True)
class Rate:
    """The mean cost of one sample, epoch or result. `row` is the uncompressed size of a sample in bytes, None
    for a step without samples."""

    seconds: float  # of work, summed over workers
    bytes: float
    row: int | None
    own: bool = False  # from receipts of the step itself


def row_of(step: Step) -> int | None:
    return step.row_bytes if isinstance(step, SampleStep) else None


def rates_of(plans: Sequence[StepPlan], store: ObjectStore) -> dict[str, Rate]:
    """Returns the rates of steps by fingerprint. Only steps with receipts are included, and only kinds of
    steps with work left."""
    root = Root(store)
    kinds = {step_plan.step.kind for step_plan in plans if step_plan.missing}
    rates: dict[str, Rate] = {}
    for step_plan in plans:
        if step_plan.step.kind in kinds:
            step_store = root.step_store(step_plan.step)
            # Without parts made from the current inputs, those made from earlier inputs serve as well.
            keys = list(step_plan.done.values()) or [
                key for of in step_store.committed(step_plan.folder).values() for key in of.values()
            ]
            receipts = step_store.receipts(evenly(keys, ESTIMATE_SAMPLE))
            if receipts:
                work = sum(
                    1 if receipt.start is None or receipt.stop is None else receipt.stop - receipt.start
                    for receipt in receipts
                )
                seconds, kept = sum(map(worker_seconds, receipts)), sum(receipt.bytes for receipt in receipts)
                rates[step_plan.step.fingerprint] = Rate(
                    seconds / work, kept / work, row_of(step_plan.step), own=True
                )
    return rates


def rates_by_kind(plans: Sequence[StepPlan], rates: Mapping[str, Rate]) -> dict[str, list[Rate]]:
    """Returns the rates of the steps of each kind."""
    alike: dict[str, list[Rate]] = {}
    for each in plans:
        if each.step.fingerprint in rates:
            alike.setdefault(each.step.kind, []).append(rates[each.step.fingerprint])
    return alike


def rate_of(
    step_plan: StepPlan, rates: Mapping[str, Rate], by_kind: Mapping[str, Sequence[Rate]]
) -> Rate | None:
    """Returns the step's own rate, or else the mean rate of other steps of its kind; None without any. If no
    such step has samples of the same size, only the time is meaningful, and `row` is -1."""
    if step_plan.step.fingerprint in rates:
        return rates[step_plan.step.fingerprint]
    alike = by_kind.get(step_plan.step.kind)
    if not alike:
        return None
    same = [rate for rate in alike if rate.row == row_of(step_plan.step)]
    kept, row = (fmean(rate.bytes for rate in same), same[0].row) if same else (0.0, -1)
    return Rate(fmean(rate.seconds for rate in alike), kept, row)
