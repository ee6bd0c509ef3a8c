"""Computes the seconds per sample of each arm from the receipts of its samples.

These times depend on the machine and its load, so no result holds them: `Cost` counts operations, and this
module adds the times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dgflow.engine.plan import StepPlan
from dgflow.report.own_receipts import own_receipts
from dgflow.specs.figures import Table
from dgflow.specs.step import Slice
from dgflow.steps.cost import Cost, sampled_by
from dgflow.store.receipts import Receipt

_NOTE = "Measured worker-seconds per sample; other work on the same machine lengthens them."


@dataclass(frozen=True)
class Timing:
    """The worker-seconds per sample of an arm, and the devices that made its samples."""

    seconds: float
    devices: tuple[str, ...]


def timings(plans: Sequence[StepPlan], receipts: Mapping[str, list[Receipt]]) -> dict[str, dict[str, Timing]]:
    """Returns, for each `Cost` step by name, the timing of every arm whose samples are complete."""
    complete = {each.step.variant for each in plans if each.complete}
    return {
        each.step.name: {
            name: _timing(arm, receipts)
            for name, arm in each.step.arms.items()
            if all(each.step.variant in complete for part in arm for each in sampled_by(part))
        }
        for each in plans
        if isinstance(each.step, Cost)
    }


def timing_table(arms: Mapping[str, Timing]) -> Table:
    rows = [(name, f"{each.seconds:.3g}", ", ".join(each.devices)) for name, each in arms.items()]
    return Table("Seconds per sample", ("arm", "seconds", "device"), rows, note=_NOTE)


def _timing(arm: Sequence[Slice], receipts: Mapping[str, list[Receipt]]) -> Timing:
    """Returns the timing over all seeds. Times of consecutive steps, such as sampling and decoding, are
    summed."""
    seconds, devices = 0.0, set[str]()
    for slices in zip(*map(sampled_by, arm), strict=True):
        parts = [receipt for each in slices for receipt in own_receipts(receipts, each.step)]
        rows = sum(_rows(receipt) for receipt in parts)
        seconds += sum(receipt.seconds for receipt in parts) / rows
        devices |= {receipt.device for receipt in parts}
    return Timing(seconds, tuple(sorted(devices)))


def _rows(receipt: Receipt) -> int:
    assert receipt.start is not None and receipt.stop is not None
    return receipt.stop - receipt.start
