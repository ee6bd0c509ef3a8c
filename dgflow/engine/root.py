"""What the steps of one recipe read, found in a root."""

from __future__ import annotations

from collections.abc import Mapping

from dgflow.specs.bound import Bound, BoundResult, BoundRows, BoundWeights
from dgflow.specs.step import Reference, Slice, Step, TrainStep, Weights
from dgflow.store.identity import fingerprint
from dgflow.store.objects import ObjectStore
from dgflow.store.receipts import Receipt
from dgflow.store.step_store import StepStore


class Root:
    """A root as the steps of one recipe see it. Reads only."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self._trained: set[tuple[str, int, str]] = (
            set()
        )  # trainings seen complete, each by one listing whoever reads it

    def steps(self, step: Step) -> StepStore:
        return StepStore(self.store, step.kind, step.fingerprint)

    def bind(self, step: Step, known: dict[str, Bound | None]) -> Bound | None:
        """What `step` reads, or None while any of it is not complete.

        `known` holds the bounds of the steps before it, by fingerprint.
        """
        items: dict[str, BoundRows | BoundWeights | BoundResult] = {}
        for name, reference in step.inputs().items():
            source = known[reference.step.fingerprint]
            if source is None:
                return None
            item = self._found(reference, source)
            if item is None:
                return None
            items[name] = item
        return Bound(items)

    def _found(self, reference: Reference, inputs: Bound) -> BoundRows | BoundWeights | BoundResult | None:
        if isinstance(reference, Slice):
            return self._slice(reference, inputs)
        if isinstance(reference, Weights):
            return self._weights(reference, inputs)
        steps = self.steps(reference.step)
        receipt = _only_result(steps, inputs)
        return None if receipt is None else BoundResult(steps, receipt)

    def _slice(self, reference: Slice, inputs: Bound) -> BoundRows | None:
        steps = self.steps(reference.step)
        manifest = steps.manifest(reference.start, reference.stop, inputs.digests)
        return None if manifest is None else BoundRows(steps, manifest, reference.start, reference.stop)

    def _weights(self, reference: Weights, inputs: Bound) -> BoundWeights | None:
        step, steps = reference.step, self.steps(reference.step)
        if not isinstance(step, TrainStep):
            receipt = _only_result(steps, inputs)
            return None if receipt is None else BoundWeights(step, steps, receipt, inputs)
        made = (steps.name, step.epochs, fingerprint(inputs.digests))
        if made not in self._trained:
            if missing_epochs(step, steps.done("epochs", inputs.digests)):
                return None
            self._trained.add(made)
        wanted = range(1, step.epochs + 1) if reference.which.startswith("best") else [reference.choose({})]
        keys = [steps.key("epochs", epoch, inputs.digests) for epoch in wanted]
        receipts = dict(zip(wanted, steps.receipts(keys), strict=True))
        epoch = reference.choose({number: receipt.metrics for number, receipt in receipts.items()})
        return BoundWeights(step, steps, receipts[epoch], inputs)


def _only_result(steps: StepStore, inputs: Bound) -> Receipt | None:
    """The receipt of a step that makes one file: its name is known, so nothing is listed."""
    try:
        return steps.receipt(steps.key("results", 0, inputs.digests))
    except FileNotFoundError:
        return None


def missing_epochs(step: TrainStep, done: Mapping[int, str]) -> list[int]:
    return [epoch for epoch in range(1, step.epochs + 1) if epoch not in done]
