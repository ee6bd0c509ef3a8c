"""The inputs of a step as a root holds them: manifests of slices, weights of epochs, and their digests.

A fingerprint identifies a recipe, not bytes, and training does not give the same bytes everywhere. Therefore
every result also records the digests of its inputs, and is reused only if both agree.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dgflow.specs.trajectory import Followed
from dgflow.store.identity import fingerprint
from dgflow.store.receipts import Manifest, Receipt
from dgflow.store.shards import Columns
from dgflow.store.step_store import StepStore, read_rows

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class BoundRows:
    """A sealed slice, readable by rows."""

    step_store: StepStore
    manifest: Manifest
    start: int
    stop: int

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def read(
        self, columns: Sequence[str] | None = None, start: int = 0, stop: int | None = None
    ) -> Iterator[Columns]:
        """Yield the rows [start, stop), counted from the slice's own start, in order, shard by shard."""
        end = self.stop if stop is None else self.start + stop
        return read_rows(self.step_store, self.manifest, self.start + start, end, columns)


class BuildsNetwork(Protocol):
    """A step whose result is the weights of a network."""

    def build(self, inputs: Bound) -> nn.Module: ...

    def trained_part(self, network: nn.Module) -> nn.Module: ...


@dataclass(frozen=True)
class BoundWeights:
    """The weights of one epoch or of a file, with the inputs of their step (a discriminator's frozen
    features).
    """

    step: BuildsNetwork
    step_store: StepStore
    receipt: Receipt
    inputs: Bound

    @property
    def digest(self) -> str:
        return self.receipt.rows_sha256


ABOUT_THE_RUN = frozenset({"data_wait", "workers", "warnings", "micro_batches"})
"""Metrics of an epoch that describe the run, not the network."""


@dataclass(frozen=True)
class BoundMeasurements:
    """The metrics of all epochs of a training."""

    step_store: StepStore
    receipts: Sequence[Receipt]

    @property
    def metrics(self) -> dict[int, dict[str, Any]]:
        """Metrics by epoch, except those about the run."""
        return {
            receipt.number: {
                name: value for name, value in receipt.metrics.items() if name not in ABOUT_THE_RUN
            }
            for receipt in self.receipts
        }

    @property
    def digest(self) -> str:
        return fingerprint({str(epoch): values for epoch, values in self.metrics.items()})


@dataclass(frozen=True)
class BoundResult:
    """The result file of a step."""

    step_store: StepStore
    receipt: Receipt

    @property
    def digest(self) -> str:
        return self.receipt.rows_sha256


class Choice(Protocol):
    """Numbers that a step takes from the measurements of its inputs; `str()` gives the text for readers."""

    def plain(self) -> dict[str, Any]:
        """The choice as JSON data."""
        ...

    @property
    def warning(self) -> str:
        """A warning about the choice; empty if there is none."""
        ...


def _unseen(columns: Columns) -> None:
    """Ignore the rows: the default of `Bound.show`."""
    del columns


BoundItem = BoundRows | BoundWeights | BoundMeasurements | BoundResult


@dataclass(frozen=True)
class Bound:
    """The inputs of one step, and the choices made from them (`Step.choices`). Picklable, as it is sent to
    workers.

    A step that makes a shard in batches calls `show` with the rows of each batch, for a preview. `followed`
    is the sample, if any, whose path the step records. Neither raises, and no result depends on them.
    """

    items: Mapping[str, BoundItem] = field(default_factory=dict)
    choices: Mapping[str, Choice] = field(default_factory=dict, kw_only=True)
    show: Callable[[Columns], None] = field(default=_unseen, kw_only=True, compare=False, repr=False)
    followed: Followed | None = field(default=None, kw_only=True, compare=False, repr=False)

    @property
    def digests(self) -> dict[str, str]:
        """Digests of the inputs by field path, and of choices by name; receipts record them, and reuse
        compares them.
        """
        items = {name: item.digest for name, item in self.items.items()}
        return items | {name: fingerprint(choice.plain()) for name, choice in self.choices.items()}

    def below(self, field: str) -> Bound:
        """The inputs of the step in `field` that this step has too, under their names in that step."""
        prefix = f"{field}."
        return Bound(
            {name.removeprefix(prefix): item for name, item in self.items.items() if name.startswith(prefix)}
        )

    def pieces(
        self, name: str, columns: Sequence[str] | None = None, start: int = 0, stop: int | None = None
    ) -> Iterator[Columns]:
        """Yield the rows [start, stop) of a slice, counted from its start (all by default), shard by
        shard.
        """
        item = self.items[name]
        assert isinstance(item, BoundRows), name
        return item.read(columns, start, stop)

    def rows(
        self, name: str, columns: Sequence[str] | None = None, start: int = 0, stop: int | None = None
    ) -> Columns:
        """Read the rows that `pieces` yields, all in memory at once."""
        parts = list(self.pieces(name, columns, start, stop))
        return {column: np.concatenate([part[column] for part in parts]) for column in parts[0]}

    def result(self, name: str) -> bytes:
        """Read the file of a step.

        Raises CorruptObject if it differs from the committed file.
        """
        item = self.items[name]
        assert isinstance(item, BoundResult), name
        return item.step_store.read(item.receipt)

    def measurements(self, name: str) -> dict[int, dict[str, Any]]:
        """The metrics of a training, by epoch."""
        item = self.items[name]
        assert isinstance(item, BoundMeasurements), name
        return item.metrics

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Read the weights of a network by parameter name, on the CPU, without building the network. Raises
        CorruptObject if the file differs from the committed file.
        """
        item = self.items[name]
        assert isinstance(item, BoundWeights), name
        return _tensors(item)

    def network(self, name: str) -> nn.Module:
        """Build a network with its weights: in evaluation mode, frozen, on the CPU. Raises CorruptObject if
        the file differs from the committed file.
        """
        item = self.items[name]
        assert isinstance(item, BoundWeights), name
        return _loaded(item, item.step.build(item.inputs))


@dataclass(frozen=True)
class SharedNetworks(Bound):
    """The networks of a `Bound`, for inference only: a network that several others read is loaded once and
    shared.
    """

    modules: dict[object, nn.Module] = field(default_factory=dict)  # by `_identity`

    def network(self, name: str) -> nn.Module:
        item = self.items[name]
        assert isinstance(item, BoundWeights), name
        key = _identity(item)
        if key not in self.modules:
            network = item.step.build(SharedNetworks(item.inputs.items, self.modules))
            shared = {id(value) for module in self.modules.values() for value in module.parameters()}
            if any(id(value) in shared for value in item.step.trained_part(network).parameters()):
                network = copy.deepcopy(
                    network.requires_grad_(False)
                )  # trained further from weights that others read
            self.modules[key] = _loaded(item, network)
        return self.modules[key]


def _identity(item: BoundItem) -> object:
    """A key that is equal for networks with identical weights."""
    inputs = item.inputs.items if isinstance(item, BoundWeights) else {}
    return item.step_store.name, item.digest, tuple((name, _identity(inputs[name])) for name in inputs)


def _tensors(item: BoundWeights) -> dict[str, Tensor]:
    from dgflow.weights.host_copies import committed_weights

    return committed_weights(item.step_store, item.receipt)


def _loaded(item: BoundWeights, network: nn.Module) -> nn.Module:
    """Load the weights of the item into `network`, the network of the item's step."""
    from dgflow.weights.tensors import load_into

    weights = _tensors(item)
    load_into(item.step.trained_part(network), weights, source=f"{item.step_store.name}/{item.receipt.key}")
    return network.eval().requires_grad_(False)
