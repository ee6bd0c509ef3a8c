"""Warnings from the receipts of a step, about saturated samples and slow workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dgflow.specs.bound import Bound
from dgflow.specs.step import Step
from dgflow.store.receipts import Receipt
from dgflow.store.step_store import StepStore

_SATURATED = 0.05  # share of the samples


def receipt_warnings(step: Step, receipts: Sequence[Receipt]) -> list[str]:
    """Returns the distinct warnings of these parts of `step`."""
    recorded = [line for receipt in receipts for line in receipt.metrics.get("warnings", [])]
    return [f"{step.title}: {line}" for line in dict.fromkeys([*_saturated(receipts), *recorded])]


class WarnsOnce:
    """Prints the warnings in the receipt of a step's first part that completes in this run."""

    def __init__(
        self, step: Step, step_store: StepStore, folder: str, bound: Bound, say: Callable[[str], None]
    ) -> None:
        self._step, self._store, self._folder = step, step_store, folder
        self._bound, self._say, self._done = bound, say, False

    def __call__(self, number: int) -> None:
        if self._done:
            return
        self._done = True
        receipt = self._store.receipt(self._store.key(self._folder, number, self._bound.digests))
        for line in receipt_warnings(self._step, [receipt]):
            self._say(f"warning: {line}")


def _saturated(receipts: Sequence[Receipt]) -> list[str]:
    count = sum(receipt.metrics.get("saturated", 0) for receipt in receipts)
    total = sum((receipt.stop or 0) - (receipt.start or 0) for receipt in receipts)
    if not total or count < _SATURATED * total:
        return []
    return [
        f"{count:,} of {total:,} samples are saturated: far outside the range of images before they are "
        "clipped to it; use a smaller guidance weight, more sampler steps, or a score network that is "
        "trained longer"
    ]
