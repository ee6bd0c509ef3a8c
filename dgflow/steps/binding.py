"""What a step reads, found in a root: manifests of slices, weights of epochs, and their digests.

A fingerprint names a recipe and not bytes, and training does not give the same bytes everywhere. So what a step makes also carries the
digests of what it was made from, and is reused only while both agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dgflow.steps.step import NetworkStep, Reference, SampleStep, Slice, Step, TrainStep, Weights
from dgflow.store.identity import fingerprint
from dgflow.store.objects import ObjectStore
from dgflow.store.receipts import Manifest, Receipt
from dgflow.store.shards import Columns
from dgflow.store.step_store import StepStore, read_rows

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class BoundRows:
    """A sealed slice."""

    steps: StepStore
    manifest: Manifest
    start: int
    stop: int

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def read(self, columns: Sequence[str] | None = None, start: int = 0, stop: int | None = None) -> Iterator[Columns]:
        """Its rows [start, stop), counted from the slice's own start, in order, shard by shard."""
        end = self.stop if stop is None else self.start + stop
        return read_rows(self.steps, self.manifest, self.start + start, end, columns)


@dataclass(frozen=True)
class BoundWeights:
    """One epoch of a training step or a file's weights, with what that step itself reads (a discriminator's frozen features)."""

    step: NetworkStep
    steps: StepStore
    receipt: Receipt
    inputs: Bound

    @property
    def digest(self) -> str:
        return self.receipt.rows_sha256


@dataclass(frozen=True)
class BoundResult:
    """The file of a step that makes one."""

    steps: StepStore
    receipt: Receipt

    @property
    def digest(self) -> str:
        return self.receipt.rows_sha256


@dataclass(frozen=True)
class Bound:
    """Everything that one step reads. Picklable: it travels to the workers."""

    items: Mapping[str, BoundRows | BoundWeights | BoundResult] = field(default_factory=dict)

    @property
    def digests(self) -> dict[str, str]:
        """By field path: what receipts record and reuse compares."""
        return {name: item.digest for name, item in self.items.items()}

    def pieces(self, name: str, columns: Sequence[str] | None = None, start: int = 0, stop: int | None = None) -> Iterator[Columns]:
        """The rows [start, stop) of a slice, counted from its start (all of them by default), shard by shard."""
        item = self.items[name]
        assert isinstance(item, BoundRows), name
        return item.read(columns, start, stop)

    def rows(self, name: str, columns: Sequence[str] | None = None, start: int = 0, stop: int | None = None) -> Columns:
        """As `pieces`, all of them in memory at once."""
        parts = list(self.pieces(name, columns, start, stop))
        return {column: np.concatenate([part[column] for part in parts]) for column in parts[0]}

    def result(self, name: str) -> bytes:
        """The file of a step that makes one. Raises CorruptObject where it is not the one that was committed."""
        item = self.items[name]
        assert isinstance(item, BoundResult), name
        return item.steps.read(item.receipt)

    def network(self, name: str) -> nn.Module:
        """A network with its weights: evaluation mode, frozen, on the CPU.

        Raises:
            CorruptObject: the file is not the one that was committed.
        """
        from dgflow.networks.checkpoints import load_into, load_weights

        item = self.items[name]
        assert isinstance(item, BoundWeights), name
        network = item.step.build(item.inputs)
        weights = load_weights(item.steps.read(item.receipt))
        load_into(item.step.trained_part(network), weights, source=f"{item.steps.name}/{item.receipt.key}")
        return network.eval().requires_grad_(False)


class Root:
    """A root as the steps of one recipe see it. Reads only."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self._trained: set[tuple[str, int, str]] = set()  # trainings seen complete, each by one listing whoever reads it

    def steps(self, step: Step) -> StepStore:
        return StepStore(self.store, step.kind, step.fingerprint)

    def bind(self, step: Step, known: dict[str, Bound | None]) -> Bound | None:
        """What `step` reads, or None while any of it is not complete. `known` holds the bounds of the steps before it, by fingerprint."""
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


@dataclass(frozen=True)
class Node:
    """A step of a recipe with all that the recipe asks of it."""

    step: Step
    slices: tuple[Slice, ...] = ()

    @property
    def shards(self) -> list[int]:
        """Numbers of the shards that the slices cover."""
        assert isinstance(self.step, SampleStep)
        return sorted({number for part in self.slices for number in self.step.shards_of(part.start, part.stop)})


def graph(target: Step) -> list[Node]:
    """Every step that `target` needs and `target` itself, each after what it reads.

    What is fetched from outside comes first, so that a file that cannot be had is found before hours of work. Of the other steps that could
    come next, those that use the workers as the last one did come first: going from making samples to training and back starts processes
    anew.
    """
    found: dict[str, Step] = {}
    slices: dict[str, dict[tuple[int, int], Slice]] = {}

    def visit(step: Step) -> None:
        if step.fingerprint in found:
            return
        for reference in step.inputs().values():
            visit(reference.step)
            if isinstance(reference, Slice):
                slices.setdefault(reference.step.fingerprint, {})[(reference.start, reference.stop)] = reference
        found[step.fingerprint] = step

    visit(target)
    order: dict[str, Step] = {}
    trains = False
    while len(order) < len(found):
        ready = [
            step
            for key, step in found.items()
            if key not in order and all(item.step.fingerprint in order for item in step.inputs().values())
        ]
        fetched = next((step for step in ready if is_fetched(step)), None)
        chosen = fetched or next((step for step in ready if isinstance(step, TrainStep) == trains), ready[0])
        trains = isinstance(chosen, TrainStep)
        order[chosen.fingerprint] = chosen
    return [Node(step, tuple(slices.get(key, {}).values())) for key, step in order.items()]


def is_fetched(step: Step) -> bool:
    """Whether it comes from outside: a result that needs no samples and no training."""
    return not isinstance(step, SampleStep | TrainStep) and not any(
        isinstance(reference, Slice) or isinstance(reference.step, TrainStep) for reference in step.inputs().values()
    )
