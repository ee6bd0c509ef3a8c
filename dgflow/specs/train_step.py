"""The base of all training steps, `TrainStep`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

from pydantic import Field

from dgflow.specs.bound import Bound
from dgflow.specs.mistakes import did_you_mean
from dgflow.specs.network import DataShape
from dgflow.specs.spec import PLACEMENT, ActivationPrecision
from dgflow.specs.step import Measurements, NetworkStep, Slice, Use, Weights, Work

if TYPE_CHECKING:
    import numpy as np

    from dgflow.specs.training_task import TrainingTask


class Chance(NamedTuple):
    """The held-out loss of a network that has learned nothing, with a description."""

    loss: float
    words: str


class TrainStep(NetworkStep, ABC):
    """A step that trains a network and keeps every epoch's weights.

    The number of epochs is not part of the identity: raising it continues from the last epoch. `held_out` is
    the share of the images, the last ones by index, that are held out from training and measured after every
    epoch.
    """

    folder: ClassVar[str] = "epochs"
    unit: ClassVar[str] = "epochs"
    naming: ClassVar[Mapping[str, str]] = {"Weights": "name its weights: .last(), .epoch(n), .best(...)"}
    share: ClassVar[int] = 1  # 1 / share of each batch is real images
    levels: ClassVar[int] = 1  # number of noise levels at which each held-out image is measured

    epochs: Annotated[int, PLACEMENT] = Field(default=10, gt=0)
    images_per_epoch: int | None = Field(
        default=None, gt=0
    )  # None: one pass over the training images (over the real images if there are fake ones too)
    batch_size: int = Field(default=128, gt=0)  # global batch over all workers
    learning_rate: float = Field(default=1e-3, gt=0)
    held_out: float = Field(default=0.1, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)
    real: Slice

    @property
    def title(self) -> str:
        return f"{self.kind} seed {self.seed}" if self.seed else self.kind

    @property
    def shape(self) -> DataShape:
        return self.real.step.shape

    @property
    def sees_latents(self) -> bool:
        return self.real.step.gives_latents

    def _toy_fields(self) -> dict[str, Any]:
        images = self.images_per_epoch
        return {
            "epochs": min(2, self.epochs),
            "batch_size": min(8, self.batch_size),
            "images_per_epoch": None if images is None else min(32, images),
            "held_out": 0.25 if self.held_out else 0.0,
        }

    @property
    def activations(self) -> ActivationPrecision:
        """The precision of the network's activations."""
        return "float32"

    @property
    def chance(self) -> Chance | None:
        """The held-out loss at chance; None if it is not known in advance."""
        return None

    def parts(self, slices: Sequence[Slice]) -> list[int]:
        return list(range(1, self.epochs + 1))

    @abstractmethod
    def training_task(self, inputs: Bound) -> TrainingTask:
        """The data, loss and optimiser, for `dgflow.runtime.training.loop`."""

    def split(self, name: str, *, least: int = 1) -> tuple[int, int]:
        """The numbers of training rows and of held-out rows in the slice `name` of `reads`. Raises ValueError
        for fewer than `least` training rows, or if no rows remain to hold out although `held_out` asks for
        some.
        """
        part = self.slice_of(name)
        held = round(part.rows * self.held_out)
        if part.rows - held < least or (self.held_out and not held):
            few = "one" if least == 1 else f"{least:,}"
            kept = f" besides a share of {self.held_out} to hold out" if self.held_out else ""
            raise ValueError(
                f"{self.kind}: expected at least {few} to train on{kept} in {part.step.title}, found "
                f"{part.rows:,} rows; take a larger slice"
            )
        return part.rows - held, held

    def slice_of(self, name: str) -> Slice:
        """The slice that the step reads under this name."""
        part = self.reads[name]
        assert isinstance(part, Slice), name
        return part

    def times_drawn(self, name: str) -> np.ndarray | None:
        """The number of times that a pass uses each row of the slice `name` of `reads`, int64 [rows]; unused
        rows are held out. None: the first rows once each, by `split`.
        """
        return None

    @property
    def steps_per_epoch(self) -> int:
        """Full batches per epoch over the real training images (or `images_per_epoch`), at least one."""
        training, _ = self.split("real")
        return max(1, (self.images_per_epoch or training) * self.share // self.batch_size)

    @property
    def held_out_items(self) -> int:
        """The number of held-out items, measured after every epoch."""
        return self.levels * self.split("real")[1]

    @property
    def uses(self) -> tuple[Use, Use]:
        """The uses of the network in training and in held-out measurements."""
        return "train", "forward"

    def work(self, amount: int) -> list[Work]:
        training, measuring = self.uses
        uses: list[tuple[Use, int]] = [
            (training, self.steps_per_epoch * self.batch_size),
            (measuring, self.held_out_items),
        ]
        return [
            Work(self, use, amount * times, self.batch_size, self.activations) for use, times in uses if times
        ]

    def last(self) -> Weights:
        return Weights(step=self, which="last")

    def measurements(self) -> Measurements:
        """The metrics of all epochs, for a step that compares epochs."""
        return Measurements(step=self)

    def epoch(self, number: int) -> Weights:
        """The weights after epoch `number`, counted from 1."""
        if not 1 <= number <= self.epochs:
            raise ValueError(f"expected an epoch of {self.kind} between 1 and {self.epochs}, found {number}")
        return Weights(step=self, which=f"epoch:{number}")

    def chosen(self, epoch: int | None = None, *, best: bool = False) -> Weights:
        """The weights of `epoch` if given; otherwise the best by held-out loss, or the last."""
        if epoch is not None and best:
            raise ValueError(f"expected an epoch or best=True, found both: epoch {epoch}")
        return self.epoch(epoch) if epoch is not None else self.best() if best else self.last()

    def best(self, metric: str = "held_out_loss") -> Weights:
        """The weights of the epoch with the best `metric` on the held-out images: lowest loss, highest
        Gain."""
        if not self.held_out_items:
            raise ValueError(
                f"{self.kind} keeps no held-out images (held_out=0), so no epoch can be chosen by "
                f"{metric}; use .last() or .epoch(n)"
            )
        if self.held_out_metrics and metric not in self.held_out_metrics:
            known = (
                f"whose {which} value is best, {' or '.join(names)}"
                for which in ("lowest", "highest")
                if (names := [name for name, best in self.held_out_metrics.items() if best == which])
            )
            raise ValueError(
                f"expected a measurement of {self.kind} {', or '.join(known)}, found "
                f"{metric!r}{did_you_mean(metric, self.held_out_metrics)}"
            )
        return Weights(step=self, which=f"best:{metric}")
