"""The receipts of a recipe's steps, by step name, or by `variant` where several steps share a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from dgflow.engine.plan import StepPlan
from dgflow.engine.root import Root
from dgflow.specs.step import Step
from dgflow.store.receipts import Receipt


def all_receipts(plans: Sequence[StepPlan], root: Root) -> dict[str, list[Receipt]]:
    """Returns the receipts of every step's committed parts, in the order of the parts. Raises CorruptObject
    for a damaged receipt."""
    times = Counter(each.step.name for each in plans)
    return {
        each.step.name if times[each.step.name] == 1 else each.step.variant: root.step_store(
            each.step
        ).receipts(list(each.done.values()))
        for each in plans
    }


def own_receipts(receipts: Mapping[str, list[Receipt]], step: Step) -> list[Receipt]:
    """Returns the receipts of one step from those of `all_receipts`."""
    return receipts[step.name] if step.name in receipts else receipts[step.variant]
