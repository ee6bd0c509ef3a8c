"""Resolves the inputs of a recipe's steps in a root."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dgflow.engine.lengths import Lengths
from dgflow.specs.bound import Bound, BoundItem, BoundMeasurements, BoundResult, BoundRows, BoundWeights
from dgflow.specs.graph import Node
from dgflow.specs.step import Measurements, Reference, Result, Slice, Step, Weights
from dgflow.store.identity import fingerprint
from dgflow.store.objects import ObjectStore
from dgflow.store.receipts import Receipt
from dgflow.store.step_store import StepStore


class Root:
    """A root, for resolving the references of one recipe's steps. Read-only."""

    def __init__(self, store: ObjectStore) -> None:
        self.store, self.lengths = store, Lengths(store)
        # Complete trainings, which are listed once regardless of how many steps read them:
        # (name of the step, number of epochs, fingerprint of the inputs).
        self._trained: set[tuple[str, int, str]] = set()

    def step_store(self, step: Step) -> StepStore:
        return StepStore(self.store, step.kind, step.fingerprint)

    def bind(self, node: Node | Step, bounds: Mapping[str, Bound | None]) -> Bound | None:
        """Returns the inputs of a step; None while any of them is incomplete.

        `bounds` has the inputs of the steps that the step reads: by node key, or for a step without a node,
        by fingerprint.
        """
        step, reads = (node.step, node.reads) if isinstance(node, Node) else (node, {})
        items: dict[str, BoundItem] = {}
        for name, reference in step.reads.items():
            inputs = bounds[reads.get(name, reference.step.fingerprint)]
            item = None if inputs is None else self.item(reference, inputs)
            if item is None:
                return None
            items[name] = item
        return Bound(items, choices=step.choices(Bound(items)))

    def item(self, reference: Reference, inputs: Bound) -> BoundItem | None:
        """Returns the data that `reference` names, if its step was made from `inputs`; None while the data is
        incomplete."""
        match reference:
            case Slice(start=start, stop=stop):
                step_store = self.step_store(reference.step)
                manifest = step_store.manifest(start, stop, inputs.digests)
                return None if manifest is None else BoundRows(step_store, manifest, start, stop)
            case Weights():
                return self._weights(reference, inputs)
            case Measurements():
                step_store = self.step_store(reference.step)
                receipts = self._epochs(reference.step, inputs, reference.step.parts(()))
                return None if receipts is None else BoundMeasurements(step_store, tuple(receipts.values()))
            case Result():
                step_store = self.step_store(reference.step)
                receipt = _result(step_store, inputs)
                return None if receipt is None else BoundResult(step_store, receipt)

    def _weights(self, reference: Weights, inputs: Bound) -> BoundWeights | None:
        step, step_store = reference.step, self.step_store(reference.step)
        if step.folder == "results":
            receipt = _result(step_store, inputs)
            return None if receipt is None else BoundWeights(step, step_store, receipt, inputs)
        epochs = step.parts(())
        wanted = epochs if reference.which.startswith("best") else [reference.choose({})]
        receipts = self._epochs(step, inputs, wanted)
        if receipts is None:
            return None
        epoch = reference.choose({number: receipt.metrics for number, receipt in receipts.items()})
        return BoundWeights(step, step_store, receipts[epoch], inputs)

    def _epochs(self, step: Step, inputs: Bound, wanted: Sequence[int]) -> dict[int, Receipt] | None:
        """Returns the receipts of some epochs of a training; None while any epoch is missing."""
        step_store, epochs = self.step_store(step), step.parts(())
        training = (step_store.name, len(epochs), fingerprint(inputs.digests))
        if training not in self._trained:
            if not step_store.done(step.folder, inputs.digests).keys() >= set(epochs):
                return None
            self._trained.add(training)
        keys = [step_store.key(step.folder, epoch, inputs.digests) for epoch in wanted]
        return dict(zip(wanted, step_store.receipts(keys), strict=True))


def _result(step_store: StepStore, inputs: Bound) -> Receipt | None:
    """Returns the receipt of a step that makes one file; None if there is none. Takes one request, because
    the receipt's key is known."""
    try:
        return step_store.receipt(step_store.key("results", 0, inputs.digests))
    except FileNotFoundError:
        return None
