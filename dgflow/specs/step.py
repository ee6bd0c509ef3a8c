"""Steps, frozen descriptions with an identity, and the references by which one step reads another.

A step holds no state, touches no storage and imports neither torch nor ray, so a recipe can be built and
planned anywhere; `dgflow.engine` runs it. Its fingerprint is the sha256 of its canonical JSON: kind,
`schema_version`, every field with defaults filled in, and the fingerprints of the steps it reads. Fields
annotated with `PLACEMENT` are excluded.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, cast

from pydantic import Field, SerializeAsAny, model_validator

from dgflow.specs.bound import Bound, Choice
from dgflow.specs.figures import Figure, Metric
from dgflow.specs.network import DataShape, NetworkSpec
from dgflow.specs.spec import Precision, Seeding, SmokeRun, Spec
from dgflow.store.identity import fingerprint

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from dgflow.store.objects import ObjectStore
    from dgflow.store.shards import Columns


PAGES = 1.001
"""Size of a Parquet file relative to its columns if nothing compresses (pages, checksums); measured on noise
as 1.0004.
"""
FILE_HEADER = 4_096
"""Bytes of a file's schema and footer; measured for a shard: 1.3 kB."""
INDEX_AND_LABEL, LOG_RATIO, COUNT = 16, 4, 4  # bytes per row of each column

TOY_SHARD_SIZE = 12  # shard size in smoke runs: gives work to two workers

Best = Literal["lowest", "highest"]
"""The best value of a measurement."""

Use = Literal["forward", "gradient", "head-gradient", "train", "train-gradient", "encode", "decode"]
"""gradient: forward, and backward to the input, with frozen weights. head-gradient: the same for a
discriminator's head alone, on features that another member of its ensemble has computed. train: forward, and
backward to the trained weights. train-gradient: the same for a loss of the output and of its gradient in the
input, so that backward includes that gradient. encode and decode: one pass of that half of an autoencoder.
"""

SAMPLING_USES: tuple[Use, ...] = ("forward", "gradient", "head-gradient")
"""Uses of networks whose weights, not only activations, have the requested precision."""


@dataclass(frozen=True)
class Work:
    """An amount of work: `times` evaluations of a network, counted in rows, in batches of at most `batch`."""

    network: NetworkStep
    use: Use
    times: float
    batch: int
    precision: Precision = "float32"


def kind_of(step_class: type[Step]) -> str:
    """The kind of a step class: `train-score` for `TrainScore`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", step_class.__name__).lower()


class Step(Spec):
    """Base of every step. A subclass is one kind: `TrainScore` is the kind `train-score`.

    A step is executed in parts: shards of samples, epochs of a training, or one file.
    """

    schema_version: ClassVar[int] = 1  # incremented by hand when the meaning of a kind changes
    folder: ClassVar[str] = "results"  # folder of the receipts of its parts
    unit: ClassVar[str] = "result"  # word for a part in messages
    naming: ClassVar[Mapping[str, str]] = {}  # how to write a reference to the step, by the reference's class

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy the step with changed fields, validated. pydantic's method would also copy a cached
        fingerprint.
        """
        del deep  # all fields are frozen
        return type(self)(
            **{name: getattr(self, name) for name in type(self).model_fields} | dict(update or {})
        )

    @cached_property
    def kind(self) -> str:
        return kind_of(type(self))

    def document(self) -> dict[str, Any]:
        """The step as plain JSON data: the content of `step.json` and the input of the fingerprint."""
        return {"kind": self.kind, "schema_version": self.schema_version, "fields": self.plain_fields()}

    def described(self, known: Collection[str]) -> dict[str, dict[str, Any]]:
        """The documents of the steps that the fields name and that are not `known`, such as the samples whose
        paths `RejectionThresholds` follows. The step's record includes them, so that a root describes itself.
        """
        found: dict[str, dict[str, Any]] = {}
        for _, reference in self.references(""):
            other: Step = reference.step
            if other.name not in known and other.name not in found:
                found |= {other.name: other.document()} | other.described(known)
        return found

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.document())

    @cached_property
    def variant(self) -> str:
        """The fingerprint together with the number of epochs of every training whose last or best weights the
        step depends on. Equal for steps with the same result. For a training, its own number of epochs is
        excluded.
        """
        behind = {name: reference.variant for name, reference in self.reads.items()}
        return fingerprint({"step": self.fingerprint, "inputs": behind}) if behind else self.fingerprint

    @cached_property
    def name(self) -> str:
        """The folder of the step in a root."""
        return f"{self.kind}-{self.fingerprint[:12]}"

    @property
    def title(self) -> str:
        """Title for display; not unique."""
        return self.kind

    def inputs(self) -> dict[str, Reference]:
        """The references that this step reads, by field path (`guidance.0.discriminator`)."""
        return dict(self.references(""))

    @cached_property
    def reads(self) -> Mapping[str, Reference]:
        """`inputs()`, computed once: a step may build the steps that it reads."""
        return self.inputs()

    def as_made(self, inputs: Collection[str]) -> Self:
        """The step whose inputs have these names. A step that reads different inputs depending on a field
        outside its identity returns a copy with that field set."""
        del inputs
        return self

    @property
    def is_fetched(self) -> bool:
        """True for an external file, which needs no samples and no training."""
        return self.folder == "results" and all(
            reference.step.is_fetched for reference in self.reads.values()
        )

    @property
    def is_made_up(self) -> bool:
        """True for a step that gives random numbers in place of published data, as in a smoke run."""
        return False

    def choices(self, inputs: Bound) -> Mapping[str, Choice]:
        """The numbers that the step takes from the measurements of its inputs, by name. Like the digests of
        the inputs, they identify its parts.
        """
        del inputs
        return {}

    def cautions(self) -> list[str]:
        """Warnings that follow from the recipe, before anything runs, for `plan`, `run` and the report."""
        return []

    def toy(self, smoke: SmokeRun) -> Step:
        """The step in a smoke run."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        toys = {name: smoke.value(value, self._toy_factor) for name, value in fields.items()}
        return self.model_copy(update=toys | self._toy_fields())

    @property
    def _toy_factor(self) -> int:
        return 1

    def _toy_fields(self) -> dict[str, Any]:
        """The fields that have different values in a smoke run."""
        return {}

    def parts(self, slices: Sequence[Slice]) -> list[int]:
        """The numbers of the parts to make for these slices."""
        del slices
        return [0]

    def check_slices(self, slices: Sequence[Slice], inputs: Bound | None) -> None:
        """Raise ValueError if a slice exceeds the number of samples, where that is known. `inputs` is None
        until the inputs are complete.
        """

    def amount(self, parts: Sequence[int]) -> int:
        """The number of samples, epochs or files in `parts`."""
        return len(parts)

    def network_evaluations(self, rows: int) -> int:
        """Network evaluations for `rows` samples; 0 for a training and for steps without a network."""
        del rows
        return 0

    def work(self, amount: int) -> list[Work]:
        """The network evaluations for `amount` samples, epochs or files."""
        del amount
        return []

    def stored_bytes(self, parts: Sequence[int]) -> int | None:
        """An upper bound on the stored size of `parts` in bytes; None if unknown."""
        del parts
        return self.file_bytes

    @property
    def file_bytes(self) -> int | None:
        """An upper bound on the size of the file in bytes; None if unknown."""
        return None

    def check_unchanged(self, read: Callable[[], bytes], store: ObjectStore) -> None:
        """Raise ValueError if the data that the step read outside the root has changed since; `read` returns
        the step's stored file.
        """


class _Reference(Spec):
    """A reference to a result of another step, identified by that step's fingerprint."""

    @property
    def fingerprint(self) -> str:
        """The step's."""
        return self.step.fingerprint  # type: ignore[attr-defined]

    @property
    def variant(self) -> str:
        """The step's."""
        return self.step.variant  # type: ignore[attr-defined]

    @property
    def name(self) -> str:
        """The folder of the step in a root."""
        return self.step.name  # type: ignore[attr-defined]

    @property
    def title(self) -> str:
        """Title for display; not unique."""
        return self.step.title  # type: ignore[attr-defined]

    def references(self, path: str) -> Iterator[tuple[str, Any]]:
        yield path, self

    def plain(self) -> dict[str, Any]:
        step: Step = self.step  # type: ignore[attr-defined]
        others = {name: getattr(self, name) for name in type(self).model_fields if name != "step"}
        return {"step": step.kind, "fingerprint": step.fingerprint, **others}


class Slice(_Reference):
    """Samples `start` to `stop` (exclusive) of a step, as written `step[start:stop]`."""

    step: SerializeAsAny[SampleStep]
    start: int = Field(ge=0)
    stop: int = Field(gt=0)

    @model_validator(mode="after")
    def _not_empty(self) -> Slice:
        if self.stop <= self.start:
            raise ValueError(
                f"expected a slice with start < stop, found [{self.start}:{self.stop}] of {self.step.kind}"
            )
        return self

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def title(self) -> str:
        return f"{self.step.title} [{self.start}:{self.stop}]"

    @property
    def image_shape(self) -> DataShape:
        """The shape of the images. Raises ValueError for latents and other samples."""
        shape = self.step.shape
        if self.step.gives_latents:
            raise ValueError(
                f"expected images, found the latents of {self.step.title}: decode them first, with "
                "Decode(latents=..., vae=...)"
            )
        return shape

    def check_labelled(self, field: str, network: str, remedy: str) -> None:
        """Raise ValueError, naming `field` and the `network` that needs labels, for samples without
        labels."""
        if not self.step.labelled:
            raise ValueError(
                f"{field}: expected samples with labels, which {network} needs, found those of "
                f"{self.step.title}, which have none: {remedy}"
            )

    @property
    def shards(self) -> range:
        """The numbers of the shards that cover the slice."""
        return range(self.start // self.step.shard_size, -(-self.stop // self.step.shard_size))

    @property
    def origin(self) -> Slice:
        """The slice of drawn samples: the latents behind decoded images, otherwise the slice itself."""
        return self.step.origin(self)

    def in_smoke(self, smoke: SmokeRun, factor: int) -> Self:
        return smoke.slice(self)

    @property
    def drawn(self) -> Drawn:
        """The seed and indices with which the samples were drawn."""
        origin = self.origin
        seeds = origin.step.seeds
        return Drawn() if seeds is None else Drawn(*seeds, origin.start, origin.stop)


def _bracketed(key: slice) -> str:
    """Format an index as written: `[10:5]`."""
    edges = (key.start, key.stop) if key.step is None else (key.start, key.stop, key.step)
    return f"[{':'.join('' if edge is None else str(edge) for edge in edges)}]"


class MeasuredColumns(dict[str, "np.ndarray"]):
    """Columns of a shard with measurements for its receipt: `saturated`, the number of samples far outside
    the range of images.
    """

    def __init__(self, columns: Columns, metrics: Mapping[str, Any]) -> None:
        super().__init__(columns)
        self.metrics = metrics


class Drawn(NamedTuple):
    """The random draws behind samples, as far as known."""

    seed: int | None = None
    seeding: Seeding | None = None
    start: int | None = None
    stop: int | None = None


class SampleStep(Step, ABC):
    """A step that makes an indexed stream of samples in shards of a fixed size.

    The number of samples follows from the slices that other steps take, and is not part of the identity.
    """

    folder: ClassVar[str] = "shards"
    unit: ClassVar[str] = "shards"
    naming: ClassVar[Mapping[str, str]] = {"Slice": "name its samples: [start:stop] or .all()"}

    maps: ClassVar[str] = ""
    """The field of the slice whose rows are this step's, one by one, so that a shard depends only on the rows
    of its own range; "" for none. A step of a longer slice then reuses the shards of a shorter one."""

    shard_size: int = Field(default=500, gt=0)

    def __getitem__(self, key: slice) -> Slice:
        if not isinstance(key, slice) or key.step is not None or key.stop is None:
            given = _bracketed(key) if isinstance(key, slice) else f"[{key!r}]"
            raise ValueError(
                "expected a slice with an end, as in step[:1000] or step[1000:2000], found "
                f"{self.kind}{given}"
            )
        if any(isinstance(edge, int) and edge < 0 for edge in (key.start, key.stop)):
            raise ValueError(
                "expected a slice counted from the first sample, as in step[:1000], found "
                f"{self.kind}{_bracketed(key)}"
            )
        return Slice(step=self, start=key.start or 0, stop=key.stop)

    @property
    def shape(self) -> DataShape:
        """The shape of the images or latents. Raises ValueError if the samples are neither."""
        raise ValueError(
            "expected a step that gives images or latents (ImportImages, Generate, Encode or Decode), found "
            f"{self.kind}"
        )

    @property
    def gives_latents(self) -> bool:
        """True if the samples are latents for a decoder, not images."""
        return False

    @property
    def labelled(self) -> bool:
        """False for samples whose labels are all -1. Raises as `shape`."""
        return self.shape.num_classes > 0

    @property
    def gives_log_ratio(self) -> bool:
        """True for samples with a column `log_ratio`."""
        return False

    @property
    def row_bytes(self) -> int | None:
        """The uncompressed bytes of a sample's columns; None if unknown."""
        return None

    @property
    def length(self) -> int | None:
        """The maximum number of samples; None if it is unlimited, or unknown in advance."""
        return None

    @property
    def seeds(self) -> tuple[int, Seeding] | None:
        """The sampler's seed and seed rule; None for samples that are not drawn."""
        return None

    def origin(self, part: Slice) -> Slice:
        """The slice whose random draws `part`, a slice of this step, has."""
        return part

    def _toy_fields(self) -> dict[str, Any]:
        return {"shard_size": min(TOY_SHARD_SIZE, self.shard_size)}

    def all(self) -> Slice:
        """The slice of all samples. Raises ValueError if their number is not known in advance."""
        if self.length is None:
            raise ValueError(
                f"expected a {self.kind} whose number of samples is known in advance; name the samples, "
                "as in step[:1000]"
            )
        return self[: self.length]

    def remarks(self, inputs: Bound) -> tuple[str, ...]:
        """Remarks for readers of a slice, such as on skipped images; stored in the manifest."""
        del inputs
        return ()

    def check_source(self, inputs: Bound) -> None:
        """Raise ValueError, before any shard is made, for a fault of the source that would make a shard
        fail."""
        del inputs

    def doubts(self, part: Slice, inputs: Bound) -> tuple[str, ...]:
        """Reasons to doubt a slice of this step, reported once when the slice is complete."""
        del part, inputs
        return ()

    def shard_range(self, number: int) -> tuple[int, int]:
        """First index and end index of shard `number`: every shard is full, except possibly the last."""
        stop = (number + 1) * self.shard_size
        return number * self.shard_size, stop if self.length is None else min(stop, self.length)

    def known_length(self, inputs: Bound | None) -> int | None:
        """The number of samples, from `inputs` if these are complete; None if unknown."""
        del inputs
        return self.length

    def check_slices(self, slices: Sequence[Slice], inputs: Bound | None) -> None:
        last = max(slices, key=lambda part: part.stop, default=None)
        if last is None or (length := self.known_length(inputs)) is None or last.stop <= length:
            return
        raise ValueError(
            f"expected a slice within the {length:,} samples of {self.title}, found "
            f"[{last.start}:{last.stop}]; take a smaller slice"
        )

    def parts(self, slices: Sequence[Slice]) -> list[int]:
        return sorted({number for part in slices for number in part.shards})

    def amount(self, parts: Sequence[int]) -> int:
        return sum(stop - start for start, stop in map(self.shard_range, parts))

    def stored_bytes(self, parts: Sequence[int]) -> int | None:
        if self.row_bytes is None:
            return None
        return round(PAGES * self.amount(parts) * self.row_bytes) + FILE_HEADER * len(parts)

    @abstractmethod
    def shard_builder(self, inputs: Bound) -> Callable[[int, int], Columns]:
        """Load the inputs, once per worker, and return the function that makes the samples [start, stop)."""


class NetworkStep(Step, ABC):
    """A step whose result is the weights of a network: trained here (`TrainStep`) or elsewhere
    (`Pretrained`)."""

    averages: ClassVar[bool] = False  # True if it trains a moving average of the weights
    held_out_metrics: ClassVar[Mapping[str, Best]] = {}  # metrics for choosing an epoch; {}: unknown

    network: SerializeAsAny[NetworkSpec]

    @property
    def architecture(self) -> NetworkSpec:
        """The whole network: `network`, unless the step builds more around it."""
        return self.network

    @property
    @abstractmethod
    def shape(self) -> DataShape:
        """The shape of the network's data."""

    @property
    def classes(self) -> int:
        """Number of classes that the network predicts or is conditioned on; 0 for none."""
        return self.shape.num_classes

    @property
    def _toy_factor(self) -> int:
        return self.shape.image_size // self.shape.toy.image_size

    @property
    def sees_latents(self) -> bool:
        """True for a network that is trained on latents in the recipe."""
        return False

    @property
    def knows_noise(self) -> bool:
        """False for a network of clean samples only, see `NetworkSpec.knows_noise`."""
        return self.architecture.knows_noise

    @property
    def judges_images(self) -> bool:
        """True for a network whose features the evaluation can compare."""
        return self.network.judges_images

    def fresh(self) -> nn.Module:
        """Build the network, and the networks that it reads, with fresh weights, on the device of the
        context.

        Raises ValueError if a required package is not installed.
        """
        try:
            return self.build(cast("Bound", _Unbound(self)))
        except ImportError as error:
            raise ValueError(f"{self.title}: the network cannot be built: {error}") from error

    def build(self, inputs: Bound) -> nn.Module:
        """Build the network; trained parts have fresh weights."""
        shape = self.shape._replace(num_classes=self.classes)
        return self.architecture.assemble(shape, lambda field: inputs.network(f"network.{field}"))

    def trained_part(self, network: nn.Module) -> nn.Module:
        """The part of the built network whose weights are stored."""
        return self.architecture.kept(network)


@dataclass(frozen=True)
class _Unbound:
    """The inputs of a network step before any exists: networks with fresh weights."""

    step: NetworkStep

    def network(self, name: str) -> nn.Module:
        reference = self.step.inputs()[name]
        assert isinstance(reference, Weights)
        return reference.step.fresh()


class Weights(_Reference):
    """The weights of one epoch of a training, or the weight file of another step."""

    step: SerializeAsAny[NetworkStep]
    which: str  # "last", "epoch:7", "best:held_out_loss"; "file" for a step with one file

    @property
    def variant(self) -> str:
        """The step's variant, with its number of epochs if that decides which weights are meant."""
        if self.which.partition(":")[0] not in ("last", "best"):
            return self.step.variant
        return f"{self.step.variant} of {len(self.step.parts(()))}"

    def in_smoke(self, smoke: SmokeRun, factor: int) -> Self:
        step = smoke.step(self.step)
        how, _, what = self.which.partition(":")
        if how == "epoch":
            epochs, toy_epochs = len(self.step.parts(())), len(step.parts(()))
            return type(self)(step=step, which=f"epoch:{max(1, int(what) * toy_epochs // epochs)}")
        return type(self)(step=step, which=self.which)

    @property
    def part(self) -> int | str:
        """The part that `which` names, or "best:..." if that depends on measurements."""
        return self.which if self.which.startswith("best") else self.choose({})

    @property
    def identity(self) -> tuple[str, int | str]:
        """A key that is equal for equal weights, such as `last()` of ten epochs and `epoch(10)`."""
        return (self.variant if self.which.startswith("best") else self.step.variant), self.part

    def choose(self, metrics: Mapping[int, Mapping[str, Any]]) -> int:
        """Return the part that `which` names. "best" needs the metrics of every epoch; of equal values the
        earliest epoch wins, and epochs beyond those of the reference are ignored.
        """
        how, _, what = self.which.partition(":")
        if how == "epoch":
            return int(what)
        if how != "best":
            return self.step.parts(())[-1]
        own = set(self.step.parts(()))
        metrics = {epoch: values for epoch, values in metrics.items() if epoch in own}
        missing = [epoch for epoch, values in metrics.items() if what not in values]
        if missing:
            raise ValueError(
                f"{self.step.name} records no {what!r} for epoch {missing[0]}; it has "
                f"{sorted(metrics[missing[0]])}"
            )
        sign = -1 if self.step.held_out_metrics.get(what) == "highest" else 1
        return min(metrics, key=lambda epoch: (sign * metrics[epoch][what], epoch))


class Measurements(_Reference):
    """The metrics of every epoch of a training."""

    step: SerializeAsAny[NetworkStep]

    @model_validator(mode="after")
    def _of_a_training(self) -> Measurements:
        if self.step.folder != "epochs":
            raise ValueError(f"expected a training, whose epochs are measured, found {self.step.kind}")
        return self

    @property
    def variant(self) -> str:
        """The step's variant, with its number of epochs."""
        return f"{self.step.variant} of {len(self.step.parts(()))}"

    def in_smoke(self, smoke: SmokeRun, factor: int) -> Self:
        return type(self)(step=smoke.step(self.step))


class FileStep(Step, ABC):
    """A step that makes one file: a `ResultStep`, or fetched weights of a network."""

    suffix: ClassVar[str] = ".json"

    @abstractmethod
    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Compute the file. `spread` distributes large work; external files are fetched into the root,
        `store`.
        """


class ResultStep(FileStep, ABC):
    """A step whose result is one file: statistics, the numbers of one comparison, a table."""

    naming: ClassVar[Mapping[str, str]] = {"Result": "name its file: .result()"}

    quantities: ClassVar[Mapping[str, Metric]] = {}  # quantities that the kind itself measures

    @property
    def columns(self) -> Mapping[str, Metric]:
        """The quantities that an arm of `compared` may have, in table order."""
        return self.quantities

    def result(self) -> Result:
        """The reference to the file, for other steps."""
        return Result(step=self)

    def compared(self, content: bytes) -> Mapping[str, Mapping[str, Any]]:
        """The arms that the file compares, by name, with their `columns` as `Evaluate` writes them: mappings
        with `mean`, `spread` (None with one seed) and `per_seed`. Empty if the file compares no arms.
        """
        del content
        return {}

    def figures(self, content: bytes) -> Sequence[Figure]:
        """The figures and tables of the file, for the report page."""
        del content
        return ()


class Result(_Reference):
    """A reference to the one file of a step."""

    step: SerializeAsAny[ResultStep]

    def in_smoke(self, smoke: SmokeRun, factor: int) -> Self:
        return type(self)(step=smoke.step(self.step))


Reference = Slice | Weights | Measurements | Result
"""The references by which one step reads another."""

Target = Step | Slice | Weights | Result
"""The target of a recipe: a step, or samples or weights."""


def last_step(target: Target) -> Step:
    """The last step to run for a target."""
    return target if isinstance(target, Step) else target.step


Spread = Callable[[Callable[[], Callable[[Any], Any]], Sequence[Any], Callable[[Any, Any], None]], None]
"""`spread(make, items, take)`: each worker calls `make()` once and applies the returned function to items
(hashable); `take(item, result)` is called in this process per finished item, in any order, until the call
returns.
"""


def here(
    make: Callable[[], Callable[[Any], Any]], items: Sequence[Any], take: Callable[[Any, Any], None]
) -> None:
    """A `Spread` that works through the items in this process, in order."""
    work = make()
    for item in items:
        take(item, work(item))


Slice.model_rebuild()
Weights.model_rebuild()
Measurements.model_rebuild()
Result.model_rebuild()
