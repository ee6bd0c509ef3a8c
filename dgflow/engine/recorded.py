"""The steps of a root and their inputs, from their records alone, without a recipe.

A recipe defines the steps and what each of them reads. The records contain the same information: `step.json`
has the fields of a step, and every receipt has the digests of its inputs. A step is therefore rebuilt from
its document. An input is the committed part with the recorded digest, even if newer parts exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dgflow.specs.bound import Bound, BoundItem, BoundMeasurements, BoundResult, BoundRows, BoundWeights
from dgflow.specs.recorded import rebuilt, references_in
from dgflow.specs.step import Measurements, NetworkStep, Reference, Result, Slice, Step, Weights
from dgflow.store.address import sealed_slices, step_names
from dgflow.store.objects import ObjectStore
from dgflow.store.receipts import CorruptObject, Receipt, parse_json
from dgflow.store.step_store import StepStore


@dataclass(frozen=True)
class Recorded:
    """A step in its recorded form. `document` has its kind, schema_version and fields."""

    step_store: StepStore
    document: Mapping[str, object]
    described: Mapping[str, Mapping[str, object]] = field(default_factory=dict)  # see `Step.described`

    @property
    def name(self) -> str:
        return self.step_store.name

    @property
    def kind(self) -> str:
        return self.step_store.kind


@dataclass
class RecordedRoot:
    """The recorded steps of a store. Read-only.

    Records and receipts are read on demand and cached, because they never change. The list of steps is not
    cached. `epochs` gives the number of epochs of trainings, by the step's name; by default all that are
    committed. The last and best weights of a training depend on it.
    """

    store: ObjectStore
    epochs: Mapping[str, int] = field(default_factory=dict)
    _recorded: dict[str, Recorded] = field(default_factory=dict)
    _live: dict[str, Step] = field(default_factory=dict)
    _receipts: dict[str, Receipt] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names of the steps, sorted."""
        return step_names(self.store)

    def recorded(self, name: str) -> Recorded:
        """Returns the record of the step in the folder `name`. Raises ValueError if there is none."""
        return self.all_recorded([name])[0]

    def all_recorded(self, names: Sequence[str]) -> list[Recorded]:
        """Returns the records of several steps as `recorded` does, read concurrently if that is faster."""
        missing = [name for name in names if name not in self._recorded]
        keys = [f"{name}/step.json" for name in missing]
        try:
            texts = self.store.get_many(keys) if keys else []
        except FileNotFoundError as error:
            raise ValueError(
                f"expected {', '.join(keys)} in {self.store.url}, found not all of them ({error}); run the "
                "recipe again"
            ) from error
        for name, key, data in zip(missing, keys, texts, strict=True):
            record = parse_json(data, key, self.store.url)
            step_store = StepStore(self.store, name.rpartition("-")[0], record["fingerprint"])
            self._recorded[name] = Recorded(step_store, record["document"], record.get("described", {}))
        return [self._recorded[name] for name in names]

    def step(self, name: str) -> Step:
        """Returns the live step of the folder `name`; a training has the epochs that are committed.

        Raises:
            ValueError: its record cannot be rebuilt here, see `specs.recorded.rebuilt`.
        """
        if name not in self._live:
            recorded = self.recorded(name)
            epochs = self.epochs.get(name) or max(recorded.step_store.newest("epochs"), default=0)
            self._live[name] = rebuilt(
                recorded.document,
                recorded.step_store.fingerprint,
                lambda kind, fingerprint: self._named(f"{kind}-{fingerprint[:12]}", fingerprint, recorded),
                **({"epochs": epochs} if epochs else {}),
            )
        return self._live[name]

    def _named(self, name: str, fingerprint: str, by: Recorded) -> Step:
        """Returns a step that the record `by` names: from the step's folder, or if that is missing, from the
        description in `by`."""
        if name not in by.described or name in self._recorded or name in self.names:
            return self.step(name)
        return rebuilt(
            by.described[name],
            fingerprint,
            lambda kind, fingerprint: self._named(f"{kind}-{fingerprint[:12]}", fingerprint, by),
        )

    def receipts(self, step_store: StepStore, folder: str) -> dict[int, Receipt]:
        """Returns the receipts with the same inputs as the latest receipt, by number. Takes one listing, and
        reads the receipts that are not cached."""
        keys = step_store.newest(folder)
        missing = [key for key in keys.values() if key not in self._receipts]
        self._receipts |= dict(zip(missing, step_store.receipts(missing), strict=True))
        return {number: self._receipts[keys[number]] for number in sorted(keys)}

    def bound(self, step: Step, digests: Mapping[str, str]) -> Bound:
        """Returns the inputs of a part of `step` whose receipt records these digests.

        Raises:
            CorruptObject: an input is no longer in the root.
        """
        items = {name: self._of_digest(reference, digests[name]) for name, reference in step.reads.items()}
        return Bound(items, choices=step.choices(Bound(items)))

    def weights(self, step: Step, receipt: Receipt) -> BoundWeights:
        """Returns the weights that a receipt commits: of an epoch, or of a step that makes one file.

        Raises:
            ValueError: the network's code is not imported, see `NetworkSpec.check_recorded`.
            CorruptObject: as `bound`.
        """
        assert isinstance(step, NetworkStep), step.name
        step.architecture.check_recorded()
        step_store = self._store_of(step)
        return BoundWeights(step, step_store, receipt, self.bound(step, receipt.inputs))

    def newest(self, step: Step) -> dict[int, Receipt]:
        """Returns the receipts of a live step as `receipts` does."""
        return self.receipts(self._store_of(step), step.folder)

    def bind(self, step: Step) -> Bound:
        """Returns the inputs of a step that is not in the root itself. For each reference, these are the
        weights that the reference chooses among the latest.

        Raises ValueError if the step reads a step of another root, or anything other than weights.
        """
        items: dict[str, BoundItem] = {}
        for path, reference in step.reads.items():
            name = reference.step.name
            if self.store.size(f"{name}/step.json") is None:
                raise ValueError(
                    f"{path}: expected a step of {self.store.url}, found {name}, which is not in this root"
                )
            if not isinstance(reference, Weights):
                raise ValueError(f"{path}: expected weights, found {type(reference).__name__} of {name}")
            items[path] = self.weights(reference.step, self.chosen(reference))
        return Bound(items, choices=step.choices(Bound(items)))

    def chosen(self, reference: Weights) -> Receipt:
        """Returns the receipt of the weights that a reference names. Raises ValueError if there are none."""
        receipts = self.newest(reference.step)
        part = (
            reference.choose({number: receipt.metrics for number, receipt in receipts.items()})
            if receipts
            else 0
        )
        if part not in receipts:
            available = f"epochs {min(receipts)} to {max(receipts)}" if receipts else "none"
            raise ValueError(
                f"expected the weights {reference.which} of {reference.step.name} in {self.store.url}, found "
                f"{available}; run the recipe"
            )
        return receipts[part]

    def used_epochs(self, name: str) -> list[int]:
        """Returns the epochs of the training `name` from which parts of other steps were made."""
        step_store, digests = self.recorded(name).step_store, set()
        for reader, path, reference in self._references():
            if reference["fingerprint"] != step_store.fingerprint or "which" not in reference:
                continue
            folders = (reader.newest(each) for each in ("shards", "results", "epochs"))
            if (committed := next(filter(None, folders), None)) is not None:
                digests.add(reader.receipt(next(iter(committed.values()))).inputs.get(path))
        receipts = self.receipts(step_store, "epochs")
        return [number for number, receipt in receipts.items() if receipt.rows_sha256 in digests]

    def _references(self) -> Iterator[tuple[StepStore, str, Mapping[str, object]]]:
        for recorded in self.all_recorded(self.names):
            for path, reference in references_in(recorded.document["fields"]):
                yield recorded.step_store, path, reference

    def _store_of(self, step: Step) -> StepStore:
        return StepStore(self.store, step.kind, step.fingerprint)

    def _of_digest(self, reference: Reference, digest: str) -> BoundItem:
        step, step_store = reference.step, self._store_of(reference.step)
        match reference:
            case Slice(start=start, stop=stop):
                for manifest in sealed_slices(step_store):
                    if (manifest.start, manifest.stop, manifest.digest) == (start, stop, digest):
                        return BoundRows(step_store, manifest, start, stop)
            case Measurements():
                for receipts in _trainings(step_store):
                    for count in range(len(receipts), 0, -1):
                        item = BoundMeasurements(step_store, tuple(receipts[:count]))
                        if item.digest == digest:
                            return item
            case Weights() | Result():
                for receipts in _trainings(step_store, step.folder):
                    for receipt in receipts:
                        if receipt.rows_sha256 == digest:
                            if isinstance(reference, Weights):
                                return self.weights(step, receipt)
                            return BoundResult(step_store, receipt)
        raise CorruptObject(
            f"expected a result of {step_store.name} with digest {digest[:16]} in {self.store.url}, found "
            "none; it was removed, or rebuilt from other inputs: run the recipe again"
        )


def _trainings(step_store: StepStore, folder: str = "epochs") -> Iterator[Sequence[Receipt]]:
    """Yields, for each set of inputs, the receipts of the parts made from it, in order of their numbers."""
    by_inputs: dict[str, dict[int, str]] = {}
    for number, keys in step_store.committed(folder).items():
        for inputs, key in keys.items():
            by_inputs.setdefault(inputs, {})[number] = key
    for keys in by_inputs.values():
        yield step_store.receipts([keys[number] for number in sorted(keys)])
