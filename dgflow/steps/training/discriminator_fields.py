"""The fields of a `TrainDiscriminator`, their checks, and what follows from the fields: slices, rows, noise
levels and held-out items."""

from __future__ import annotations

from abc import ABC
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from dgflow.networks.adm.spec import ADMEncoder
from dgflow.networks.discriminator.spec import Discriminator, check_process
from dgflow.networks.roles import HeadSpec
from dgflow.networks.times import NoiseName, ProcessName
from dgflow.specs.spec import LATER, ActivationPrecision, references
from dgflow.specs.step import Slice, Weights
from dgflow.specs.train_step import TrainStep
from dgflow.steps.gain_checks import check_score, measured_images
from dgflow.steps.training.discriminator_metrics import LEVELS, LossName
from dgflow.steps.training.fake_shares import OneOrSeveralSlices, checked_shares, most_rows, whole_rows
from dgflow.steps.training.resample import out_of_bag, times_drawn

if TYPE_CHECKING:
    import numpy as np

_GREY = "; import grey pictures with channels=1, which takes three equal channels as one"
TAU_MIN = 1e-5  # lower end of the published times


class DiscriminatorFields(TrainStep, ABC):
    """The checked fields of `TrainDiscriminator`, and properties derived from them."""

    share: ClassVar[int] = 2
    levels: ClassVar[int] = LEVELS  # spread evenly over log sigma

    fake: OneOrSeveralSlices
    fake_shares: Annotated[tuple[float, ...] | None, LATER] = None
    network: SerializeAsAny[HeadSpec] = ADMEncoder()
    features: Weights | None = None
    fine_tune: Annotated[bool, LATER] = False
    conditional: bool = True
    sigma_min: float = Field(default=0.0447, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)
    times: Literal["log-uniform", "importance"] = "log-uniform"
    weight_decay: float = Field(default=1e-7, ge=0)
    precision: ActivationPrecision = "float32"
    loss: Annotated[LossName, LATER] = "bce"
    score: Annotated[Weights | None, LATER] = None  # the network to be guided; only for loss="bce+gradient"
    gradient_weight: Annotated[float, LATER] = Field(default=1.0, gt=0, allow_inf_nan=False)
    gain_of: Annotated[Weights | None, LATER] = None
    bootstrap: Annotated[int | None, LATER] = Field(default=None, ge=0, lt=2**63)  # None: no resampling
    process: Annotated[ProcessName, LATER] = "linear-vp"
    noise: Annotated[NoiseName, LATER] = "linear_vp"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for part in self.fakes:
            self._check_fake(part)
        if self.classes:
            for name in self.slice_names:
                self.slice_of(name).check_labelled(name, "the discriminator", "use conditional=False")
        if self.batch_size % 2:
            raise ValueError(f"expected an even batch size (half real, half fake), found {self.batch_size}")
        rows = [self.batch_size // 2, *self._fake_rows_of_batch()]
        if self.fine_tune and self.features is None:
            raise ValueError(
                "expected features with fine_tune=True, the weights of a classifier of noisy images, found "
                "none; without features the network learns from scratch anyway"
            )
        check_process(self.process, self.features, self.network)
        if self.noise == "none":
            self._check_clean()
        for name, least in zip(self.slice_names, rows, strict=True):
            self.split(name, least=least)
        self._check_gradient()
        if self.gain_of is not None:
            self._check_gain(self.gain_of)
        return self

    def _check_fake(self, part: Slice) -> None:
        real, fake = self.shape, part.step.shape
        if real[:2] != fake[:2]:
            raise ValueError(
                f"expected fakes of the real ones' {real.channels} channels and {real.image_size} pixels "
                f"per side, found {fake.channels} and {fake.image_size}{_GREY if fake.channels == 1 else ''}"
            )
        if self.conditional and real.num_classes != fake.num_classes:
            raise ValueError(
                f"expected fakes of the real ones' {real.num_classes} classes, found {fake.num_classes}; use "
                "conditional=False for a discriminator without classes"
            )

    def _fake_rows_of_batch(self) -> list[int]:
        """Returns the rows of a batch from each fake slice. Raises ValueError for a slice without any."""
        if self.fake_shares is not None and isinstance(self.fake, Slice):
            raise ValueError(
                "fake_shares: expected several slices of fakes to share a batch, found one; leave it out, or "
                "give fake=(first, second)"
            )
        rows = self.fake_rows(self.batch_size // 2)
        if 0 in rows:
            part = rows.index(0)
            raise ValueError(
                f"fake_shares: expected at least one of the {self.batch_size // 2} fake rows of a batch from "
                f"each slice, found none from fake.{part}, whose share is {self.shares[part]:g}; raise its "
                "share or batch_size"
            )
        return rows

    def _check_gradient(self) -> None:
        """Raises ValueError for a loss of the gradient without a score network, and for settings of that loss
        if it is not used."""
        if self.matches_gradient:
            if self.score is None:
                raise ValueError(
                    "score: expected the weights of the score network that is to be guided with "
                    'loss="bce+gradient", found none: write score=score.last()'
                )
            check_score(self.score, self.real, field="score")
            return
        fields = type(self).model_fields
        for name in ("score", "gradient_weight"):
            if getattr(self, name) != fields[name].default:
                raise ValueError(
                    f'{name}: expected loss="bce+gradient", the only loss that uses it, found "{self.loss}": '
                    "change the loss, or leave it out"
                )

    def _check_clean(self) -> None:
        """Raises ValueError for settings of noise levels, which a clean discriminator does not have."""
        if self.matches_gradient:
            raise ValueError(
                'loss: expected "bce", "lsif" or "ukl" with noise="none", found "bce+gradient", whose '
                "gradient acts at noise levels: take one of those"
            )
        fields = type(self).model_fields
        for name in ("sigma_min", "sigma_max", "times", "process", "gain_of"):
            if (value := getattr(self, name)) != fields[name].default:
                found = value.title if isinstance(value, Weights) else repr(value)
                raise ValueError(
                    f'{name}: expected none with noise="none", which has no noise levels, found {found}: '
                    'leave it out, or use noise="linear_vp"'
                )

    def _check_gain(self, score: Weights) -> None:
        check_score(score, self.real, field="gain_of")
        if (held := self._held_out_real) < 2:
            raise ValueError(
                f"gain_of: expected at least two held-out real images to measure Gain on, found {held}: set "
                "held_out, such as 0.1, or take a larger slice"
            )

    @property
    def fakes(self) -> tuple[Slice, ...]:
        """The fake slices."""
        return (self.fake,) if isinstance(self.fake, Slice) else self.fake

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of each fake slice."""
        return checked_shares(len(self.fakes), self.fake_shares)

    @cached_property
    def slice_names(self) -> tuple[str, ...]:
        """The names of the real slice and of the fake ones in `reads`."""
        return "real", *(name for name, _ in references("fake", self.fake))

    def fake_rows(self, rows: int) -> list[int]:
        """Returns how many of `rows` fake rows come from each fake slice."""
        return whole_rows(rows, self.shares)

    @property
    def architecture(self) -> Discriminator:
        """`network` as the head, on the trained features if there are any."""
        return Discriminator(
            head=self.network,
            features=self.features,
            fine_tune=self.fine_tune,
            process=self.process,
            noise=self.noise,
        )

    @property
    def classes(self) -> int:
        return self.shape.num_classes if self.conditional else 0

    @property
    def activations(self) -> ActivationPrecision:
        return self.precision

    @property
    def drawn_range(self) -> tuple[float, float]:
        """The noise levels that training draws from; needs torch for the published ones."""
        if self.times == "log-uniform":
            return self.sigma_min, self.sigma_max
        from dgflow.diffusion.times import sigma_from_tau

        return sigma_from_tau(TAU_MIN), sigma_from_tau(1.0)

    @property
    def held_out_items(self) -> int:
        return 2 * (1 if self.noise == "none" else self.levels) * self.held_out_pairs

    @property
    def held_out_pairs(self) -> int:
        """The number of real rows, and of fake ones by their shares, that are measured: equally many
        of each kind, so that the loss at chance is known."""
        real, *fakes = (self.split(name)[1] for name in self.slice_names)
        return min(real, most_rows(fakes, self.shares))

    @property
    def _held_out_real(self) -> int:
        return self.split("real")[1]

    @property
    def matches_gradient(self) -> bool:
        """True if the gradient has a loss too."""
        return self.loss == "bce+gradient"

    @property
    def gain_images(self) -> int:
        """The number of held-out real images that Gain is measured on, each at every noise level."""
        if self.gain_of is None:
            return 0
        return measured_images(self._held_out_real, self.shape, self.levels)

    def split(self, name: str, *, least: int = 1) -> tuple[int, int]:
        if self.bootstrap is None:
            return super().split(name, least=least)
        part = self.slice_of(name)
        own = f"of `{name}` to resample with bootstrap={self.bootstrap}"
        least = max(2, least)
        if part.rows < least:
            raise ValueError(
                f"{self.kind}: expected at least {least:,} rows {own}, found {part.rows:,} in "
                f"{part.step.title}; take a larger slice"
            )
        held = out_of_bag(
            part.rows, seed=self.seed, number=self.bootstrap, stream=self.slice_names.index(name)
        )
        if not held:
            raise ValueError(
                f"{self.kind}: expected a row {own} that is not drawn, to measure on, found all "
                f"{part.rows:,} of {part.step.title} drawn; take a larger slice or another number"
            )
        return part.rows, held

    def times_drawn(self, name: str) -> np.ndarray | None:
        if self.bootstrap is None:
            return None
        part = self.slice_of(name)
        return times_drawn(
            part.rows, seed=self.seed, number=self.bootstrap, stream=self.slice_names.index(name)
        )
