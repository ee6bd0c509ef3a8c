"""Steps: frozen descriptions with an identity, and the ways in which one step reads another.

A step holds no state, touches no storage and imports neither torch nor ray, so that a recipe can be built and
planned anywhere; `dgflow.engine` runs it. Its fingerprint is the sha256 of its canonical JSON: kind,
`schema_version`, every field with defaults filled in, the fingerprints of the steps it reads. Fields
annotated with `PLACEMENT` are not part of it.
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
"""Size of Parquet to that of its columns where nothing compresses: pages and their checksums; measured on
noise as 1.0004."""
FILE_HEADER = 4_096
"""Bytes of a file's schema and footer; a shard's were measured at 1.3 kB."""
INDEX_AND_LABEL, LOG_RATIO, COUNT = 16, 4, 4  # bytes per row of these columns

TOY_SHARD_SIZE = 12  # of smoke runs, so that two workers have something to share

Best = Literal["smallest", "largest"]
"""The value of a measurement that is the best."""

Use = Literal["forward", "gradient", "head-gradient", "train", "train-gradient", "encode", "decode"]
"""gradient: forward, and backward to the input, with frozen weights. head-gradient: the same of a
discriminator's head alone, on features that another member of its ensemble has computed. train: forward, and
backward to the weights that learn. train-gradient: the same of a loss of the output and of its gradient in
the input, so that backward goes through this too. encode and decode: one pass of that half of an
autoencoder."""

SAMPLING_USES: tuple[Use, ...] = ("forward", "gradient", "head-gradient")
"""Of networks whose weights, and not only activations, have the precision that is asked for."""


@dataclass(frozen=True)
class Work:
    """`times` evaluations of a network, counted in rows, in batches of at most `batch`."""

    network: NetworkStep
    use: Use
    times: float
    batch: int
    precision: Precision = "float32"


def kind_of(step_class: type[Step]) -> str:
    """The kind of the steps of a class: `train-score` of `TrainScore`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", step_class.__name__).lower()


class Step(Spec):
    """Base of every step. A subclass is one kind: `TrainScore` is the kind `train-score`.

    A step is made in parts: shards of samples, epochs of a training, or one file.
    """

    schema_version: ClassVar[int] = 1  # raised by hand when the meaning of a kind changes
    folder: ClassVar[str] = "results"  # holds the receipts of its parts
    unit: ClassVar[str] = "result"  # its parts, for people
    naming: ClassVar[Mapping[str, str]] = {}  # class of a reference to it: the words for how to write one

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """The step with other fields, validated. pydantic's own would also copy a cached fingerprint."""
        del deep  # all fields are frozen
        return type(self)(
            **{name: getattr(self, name) for name in type(self).model_fields} | dict(update or {})
        )

    @cached_property
    def kind(self) -> str:
        return kind_of(type(self))

    def document(self) -> dict[str, Any]:
        """The step as plain JSON data: the content of `step.json`, and what the fingerprint is made from."""
        return {"kind": self.kind, "schema_version": self.schema_version, "fields": self.plain_fields()}

    def described(self, known: Collection[str]) -> dict[str, dict[str, Any]]:
        """The documents of the steps that its fields name and whose names are not `known`, such as the
        samples whose paths `RejectionThresholds` walks: its record holds them too, so that a root describes
        itself."""
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
        """Equal for steps that make the same of what they read: the fingerprint, with the number of epochs
        of every training whose last or best weights stand behind it. Of a training, not its own number."""
        behind = {name: reference.variant for name, reference in self.reads.items()}
        return fingerprint({"step": self.fingerprint, "inputs": behind}) if behind else self.fingerprint

    @cached_property
    def name(self) -> str:
        """The folder of the step in a root."""
        return f"{self.kind}-{self.fingerprint[:12]}"

    @property
    def title(self) -> str:
        """For people; not unique."""
        return self.kind

    def inputs(self) -> dict[str, Reference]:
        """The references that this step reads, by the path of the field (`guidance.0.discriminator`)."""
        return dict(self.references(""))

    @cached_property
    def reads(self) -> Mapping[str, Reference]:
        """`inputs()`, made once: what a step reads may be steps that it builds."""
        return self.inputs()

    @property
    def is_fetched(self) -> bool:
        """True for a file that needs no samples and no training: it comes from outside."""
        return self.folder == "results" and all(
            reference.step.is_fetched for reference in self.reads.values()
        )

    @property
    def is_made_up(self) -> bool:
        """True for random numbers in the place of published ones, as a smoke run has them."""
        return False

    def choices(self, inputs: Bound) -> Mapping[str, Choice]:
        """The numbers that the step takes from the measurements of its inputs, by name. They identify its
        parts as the digests of the inputs do."""
        del inputs
        return {}

    def cautions(self) -> list[str]:
        """Warnings of what the recipe alone shows, for `plan`, `run` and the report."""
        return []

    def toy(self, smoke: SmokeRun) -> Step:
        """Its form in a smoke run."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        toys = {name: smoke.value(value, self._toy_factor) for name, value in fields.items()}
        return self.model_copy(update=toys | self._toy_fields())

    @property
    def _toy_factor(self) -> int:
        return 1

    def _toy_fields(self) -> dict[str, Any]:
        """The fields that have other values in a smoke run."""
        return {}

    def parts(self, slices: Sequence[Slice]) -> list[int]:
        """The numbers of the parts to make where a recipe takes these slices."""
        del slices
        return [0]

    def check_slices(self, slices: Sequence[Slice], inputs: Bound | None) -> None:
        """Raise ValueError where a slice is longer than the samples, as far as `inputs`, None while they are
        not complete, tell their number."""

    def amount(self, parts: Sequence[int]) -> int:
        """The number of samples, epochs or files in `parts`."""
        return len(parts)

    def network_evaluations(self, rows: int) -> int:
        """Evaluations of networks that `rows` samples take; 0 where no network runs, and of a training."""
        del rows
        return 0

    def work(self, amount: int) -> list[Work]:
        """The evaluations of networks that `amount` samples, epochs or files take."""
        del amount
        return []

    def stored_bytes(self, parts: Sequence[int]) -> int | None:
        """An upper bound for the size of `parts`; None where unknown."""
        del parts
        return self.file_bytes

    @property
    def file_bytes(self) -> int | None:
        """An upper bound for the size of its file; None where unknown."""
        return None

    def check_unchanged(self, read: Callable[[], bytes], store: ObjectStore) -> None:
        """Raise ValueError where the data that the step read outside the root has changed since; `read` gives
        its file."""


class _Reference(Spec):
    """A reference to what another step makes, identified by that step's fingerprint."""

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
        """For people; not unique."""
        return self.step.title  # type: ignore[attr-defined]

    def references(self, path: str) -> Iterator[tuple[str, Any]]:
        yield path, self

    def plain(self) -> dict[str, Any]:
        step: Step = self.step  # type: ignore[attr-defined]
        others = {name: getattr(self, name) for name in type(self).model_fields if name != "step"}
        return {"step": step.kind, "fingerprint": step.fingerprint, **others}


class Slice(_Reference):
    """Samples `start` to `stop` (exclusive) of a step; what `step[start:stop]` gives."""

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
        """The shape of its images. Raises ValueError for latents, and for samples that are neither."""
        shape = self.step.shape
        if self.step.gives_latents:
            raise ValueError(
                f"expected images, found the latents of {self.step.title}: decode them first, with "
                "Decode(latents=..., vae=...)"
            )
        return shape

    def check_labelled(self, field: str, told: str, remedy: str) -> None:
        """Raise ValueError, naming `field`, for samples without labels, where `told` is told these."""
        if not self.step.labelled:
            raise ValueError(
                f"{field}: expected samples with labels, which {told} is told, found those of "
                f"{self.step.title}, which have none: {remedy}"
            )

    @property
    def shards(self) -> range:
        """The numbers of the shards that cover it."""
        return range(self.start // self.step.shard_size, -(-self.stop // self.step.shard_size))

    @property
    def origin(self) -> Slice:
        """The samples that were drawn: those behind decoded images, else the slice itself."""
        return self.step.origin(self)

    def in_smoke(self, smoke: SmokeRun, factor: int) -> Self:
        return smoke.slice(self)

    @property
    def drawn(self) -> Drawn:
        """The seed and indices that its samples were drawn with."""
        origin = self.origin
        seeds = origin.step.seeds
        return Drawn() if seeds is None else Drawn(*seeds, origin.start, origin.stop)


def _bracketed(key: slice) -> str:
    """`[10:5]`, as it was written."""
    edges = (key.start, key.stop) if key.step is None else (key.start, key.stop, key.step)
    return f"[{':'.join('' if edge is None else str(edge) for edge in edges)}]"


class MeasuredColumns(dict[str, "np.ndarray"]):
    """Columns of a shard, with measurements of them for its receipt: `saturated`, the number of samples far
    outside the range of images."""

    def __init__(self, columns: Columns, metrics: Mapping[str, Any]) -> None:
        super().__init__(columns)
        self.metrics = metrics


class Drawn(NamedTuple):
    """The draws behind some samples, as far as they are known."""

    seed: int | None = None
    seeding: Seeding | None = None
    start: int | None = None
    stop: int | None = None


class SampleStep(Step, ABC):
    """A step that makes an indexed stream of samples in shards of a fixed size.

    The number of samples follows from the slices that other steps take, and is not identity.
    """

    folder: ClassVar[str] = "shards"
    unit: ClassVar[str] = "shards"
    naming: ClassVar[Mapping[str, str]] = {"Slice": "name its samples: [start:stop] or .all()"}

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
        """The shape of its images or latents. Raises ValueError where it gives neither."""
        raise ValueError(
            "expected a step that gives images or latents (ImportImages, Generate, Encode or Decode), found "
            f"{self.kind}"
        )

    @property
    def gives_latents(self) -> bool:
        """True for samples that are latents, for a decoder, and not images."""
        return False

    @property
    def labelled(self) -> bool:
        """False for samples whose labels are all -1. Raises ValueError where `shape` does."""
        return self.shape.num_classes > 0

    @property
    def gives_log_ratio(self) -> bool:
        """True for samples with a column `log_ratio`."""
        return False

    @property
    def row_bytes(self) -> int | None:
        """The bytes of a sample's columns, uncompressed; None where unknown."""
        return None

    @property
    def length(self) -> int | None:
        """The number of samples there can be; None where it is unlimited, or unknown beforehand."""
        return None

    @property
    def seeds(self) -> tuple[int, Seeding] | None:
        """The seed that a sampler draws with, and its rule; None for samples that are not drawn."""
        return None

    def origin(self, part: Slice) -> Slice:
        """The slice whose draws are those of `part`, a slice of this step."""
        return part

    def _toy_fields(self) -> dict[str, Any]:
        return {"shard_size": min(TOY_SHARD_SIZE, self.shard_size)}

    def all(self) -> Slice:
        """Every sample. Raises ValueError where their number is not known beforehand."""
        if self.length is None:
            raise ValueError(
                f"expected a {self.kind} whose number of samples is known beforehand; name the samples, as "
                "in step[:1000]"
            )
        return self[: self.length]

    def remarks(self, inputs: Bound) -> tuple[str, ...]:
        """Remarks for readers of a slice, such as images that were left out; kept in the manifest."""
        del inputs
        return ()

    def check_source(self, inputs: Bound) -> None:
        """Look, before any shard is made, for what would stop one of them; raise ValueError for it."""
        del inputs

    def doubts(self, part: Slice, inputs: Bound) -> tuple[str, ...]:
        """Reasons to doubt a slice of this step, told once when the slice is complete."""
        del part, inputs
        return ()

    def shard_range(self, number: int) -> tuple[int, int]:
        """First index and end of shard `number`: every shard is full, except possibly the last."""
        stop = (number + 1) * self.shard_size
        return number * self.shard_size, stop if self.length is None else min(stop, self.length)

    def known_length(self, inputs: Bound | None) -> int | None:
        """The number of samples there are, from `inputs` where these are complete; None where unknown."""
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
        """Load what is needed, once per worker; the function returned makes the samples [start, stop)."""


class NetworkStep(Step, ABC):
    """A step whose result is the weights of a network: trained here (`TrainStep`) or elsewhere
    (`Pretrained`)."""

    averages: ClassVar[bool] = False  # trains a moving average of the weights
    held_out_metrics: ClassVar[Mapping[str, Best]] = {}  # by which an epoch can be chosen; {}: not told

    network: SerializeAsAny[NetworkSpec]

    @property
    def architecture(self) -> NetworkSpec:
        """The whole network: `network` itself, unless the step builds more around it."""
        return self.network

    @property
    @abstractmethod
    def shape(self) -> DataShape:
        """The data that the network is for."""

    @property
    def classes(self) -> int:
        """Number of classes that the network is asked about or conditioned on, 0 for none."""
        return self.shape.num_classes

    @property
    def _toy_factor(self) -> int:
        return self.shape.image_size // self.shape.toy.image_size

    @property
    def sees_latents(self) -> bool:
        """True for a network that was trained here on latents."""
        return False

    @property
    def knows_noise(self) -> bool:
        """False for a network that was made for clean samples alone, see `NetworkSpec.knows_noise`."""
        return self.architecture.knows_noise

    @property
    def judges_images(self) -> bool:
        """True for a network whose features the evaluation can compare."""
        return self.network.judges_images

    def fresh(self) -> nn.Module:
        """The network and those that it reads with fresh weights, on the device of the context.

        Raises ValueError where a package that it is made of is not installed.
        """
        try:
            return self.build(cast("Bound", _Unbound(self)))
        except ImportError as error:
            raise ValueError(f"{self.title}: the network cannot be built: {error}") from error

    def build(self, inputs: Bound) -> nn.Module:
        """The network, with fresh weights where it learns."""
        shape = self.shape._replace(num_classes=self.classes)
        return self.architecture.assemble(shape, lambda field: inputs.network(f"network.{field}"))

    def trained_part(self, network: nn.Module) -> nn.Module:
        """The part of what `build` gave whose weights are kept."""
        return self.architecture.kept(network)


@dataclass(frozen=True)
class _Unbound:
    """The inputs of a network step before any of them is there: networks with fresh weights."""

    step: NetworkStep

    def network(self, name: str) -> nn.Module:
        reference = self.step.inputs()[name]
        assert isinstance(reference, Weights)
        return reference.step.fresh()


class Weights(_Reference):
    """One epoch's weights of a training step, or the file of weights that another step makes."""

    step: SerializeAsAny[NetworkStep]
    which: str  # "last", "epoch:7", "best:held_out_loss"; "file" for those of a step that makes one file

    @property
    def variant(self) -> str:
        """The step's, with the number of its epochs where these decide which weights are meant."""
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
        """The part that `which` names, or "best:..." where only measurements tell."""
        return self.which if self.which.startswith("best") else self.choose({})

    @property
    def identity(self) -> tuple[str, int | str]:
        """Equal for the same weights, however they are named: `last()` of ten epochs and `epoch(10)`."""
        return (self.variant if self.which.startswith("best") else self.step.variant), self.part

    def choose(self, metrics: Mapping[int, Mapping[str, Any]]) -> int:
        """The part that `which` names; for "best", the earliest of equals by the metrics of every epoch of
        its step, of which others may have trained more."""
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
        sign = -1 if self.step.held_out_metrics.get(what) == "largest" else 1
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
        """The step's, with the number of its epochs."""
        return f"{self.step.variant} of {len(self.step.parts(()))}"

    def in_smoke(self, smoke: SmokeRun, factor: int) -> Self:
        return type(self)(step=smoke.step(self.step))


class FileStep(Step, ABC):
    """A step that makes one file: a `ResultStep`, or a network's weights that are fetched."""

    suffix: ClassVar[str] = ".json"

    @abstractmethod
    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """The file. Work that is worth sharing goes through `spread`; files from outside are fetched into the
        root, `store`."""


class ResultStep(FileStep, ABC):
    """A step whose result is one file: statistics, the numbers of one comparison, a table."""

    naming: ClassVar[Mapping[str, str]] = {"Result": "name its file: .result()"}

    quantities: ClassVar[Mapping[str, Metric]] = {}  # that the kind itself measures

    @property
    def columns(self) -> Mapping[str, Metric]:
        """The quantities that an arm of `compared` may have, in the order of a table."""
        return self.quantities

    def result(self) -> Result:
        """The reference that other steps take."""
        return Result(step=self)

    def compared(self, content: bytes) -> Mapping[str, Mapping[str, Any]]:
        """The arms that its file compares, by name, with their `columns` as `Evaluate` writes them: each a
        mapping with `mean`, `spread` (None with one seed) and `per_seed`. Empty for a file that compares
        none."""
        del content
        return {}

    def figures(self, content: bytes) -> Sequence[Figure]:
        """The figures and tables of its file, for the page."""
        del content
        return ()


class Result(_Reference):
    """The one file that a step makes."""

    step: SerializeAsAny[ResultStep]

    def in_smoke(self, smoke: SmokeRun, factor: int) -> Self:
        return type(self)(step=smoke.step(self.step))


Reference = Slice | Weights | Measurements | Result
"""The ways in which one step reads another."""

Target = Step | Slice | Weights | Result
"""The end of a recipe: a step with all that it reads, or samples or weights alone."""


def last_step(target: Target) -> Step:
    """The step that is run last for a target."""
    return target if isinstance(target, Step) else target.step


Spread = Callable[[Callable[[], Callable[[Any], Any]], Sequence[Any], Callable[[Any, Any], None]], None]
"""`spread(make, items, take)`: workers each call `make()` once and apply the function that it gives to items
(hashable ones); `take(item, result)` is called here as each is done, in any order. All are done when it
returns."""


def here(
    make: Callable[[], Callable[[Any], Any]], items: Sequence[Any], take: Callable[[Any, Any], None]
) -> None:
    """A `Spread` that does everything in this process, in order."""
    work = make()
    for item in items:
        take(item, work(item))


Slice.model_rebuild()
Weights.model_rebuild()
Measurements.model_rebuild()
Result.model_rebuild()
