"""TrainDiscriminator: a discriminator of real and fake samples at every noise level; its logit is the
log-ratio that guides.

This module holds the spec and its checks. Beside it:

- `fake_shares`: the rows of several fake slices in a batch;
- `discriminator_data`: the rows of a batch and of the held-out pairs;
- `discriminator_task`: noise, logits, loss, and the measurements of a held-out item;
- `gradient_matching`: the loss of its gradient, if there is one;
- `clean_task`: the same without noise;
- `discriminator_metrics`: the metrics of an epoch from these;
- `dgflow.steps.gain_items`: Gain on held-out real images, a further measurement of an epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, model_validator

from dgflow.diffusion.gain_curve import GAIN_METRICS
from dgflow.networks.adm.spec import ADMEncoder
from dgflow.networks.discriminator.spec import Discriminator, check_process
from dgflow.networks.roles import HeadSpec
from dgflow.networks.times import NoiseName, ProcessName
from dgflow.specs.spec import LATER, ActivationPrecision, references
from dgflow.specs.step import Best, Slice, Use, Weights, Work
from dgflow.specs.train_step import Chance, TrainStep
from dgflow.steps.gain_checks import check_score, measured_images
from dgflow.steps.training.discriminator_metrics import CHANCE, LEVELS, LossName
from dgflow.steps.training.fake_shares import OneOrSeveralSlices, checked_shares, most_rows, whole_rows
from dgflow.steps.training.resample import out_of_bag, times_drawn
from dgflow.steps.training.train_classifier import TrainClassifier

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from dgflow.specs.bound import Bound
    from dgflow.specs.training_task import Measurement, TrainingTask
    from dgflow.steps.frozen_score import FrozenScore
    from dgflow.steps.training.clean_task import CleanTask
    from dgflow.steps.training.discriminator_data import RealAndFake
    from dgflow.steps.training.discriminator_task import LogRatioTask
    from dgflow.steps.training.gradient_matching import GradientMatching
    from dgflow.steps.training.stream import Stream

_GREY = "; import grey pictures with channels=1, which takes three equal channels as one"
TAU_MIN = 1e-5  # lower end of the published times


class TrainDiscriminator(TrainStep):
    """A discriminator of diffused images (Kim et al. 2023, Algorithm 1): real = 1, fake = 0.

    Batches are half real, half fake. An epoch is one pass over the real images; if there are fewer fakes,
    they are used more often. Noise levels are drawn with log sigma uniform on [`sigma_min`, `sigma_max`]; the
    default is the range in which guidance with its default window acts in EDM's sampler. `times="importance"`
    draws them as published, tau in [1e-5, 1] importance-sampled, which is log sigma uniform on [0.001, 152]
    and spends a third of its draws below that window; the two limits then apply only to measuring.
    `precision` applies to activations; weights, optimiser and loss are float32.

    With `features`, `network` reads the middle features of a frozen classifier of noisy images, as in the
    paper; otherwise the images themselves. Both receive the time that those features were trained with
    (`ADMEncoder.time`), in training and in guidance; the published code trains on linear-VP time at 64 pixels
    and guides with cosine time. With `fine_tune` the features are trained too, starting from the classifier's
    weights (figure 28b), and are stored with the head. Without features, `process="edm"` gives the network
    the time of EDM's own diffusion instead of the linear VP one (figure 28a); see `Discriminator`.

    With `noise="none"` the discriminator is trained only on clean images, at the time of noise level 0, on
    the features of a classifier of clean images (`TrainClassifier(noise="none")`) or on none. It then has no
    noise levels, no settings for noise levels and no Gain, and cannot guide. It selects among finished
    samples (best of n, rejection at the last step) and scores them (`MeanLogRatio`).

    `bootstrap` makes the discriminator a member of a bagged ensemble: of n real images, and of the fakes
    likewise, it trains on n draws with replacement, which `seed` and the number `bootstrap` determine. The
    images that are not drawn, about 1 / e of all, are its held-out set; `held_out` is not used.

    `loss` is the Bregman divergence by which the log-ratio is fitted (appendix B): "bce", binary
    cross-entropy, as published; "lsif", least squares of the ratio; "ukl", the unnormalised Kullback-Leibler
    divergence. All have their minimum at the true log-ratio. For logits beyond 5 ("lsif") or 10 ("ukl") they
    continue with bounded slopes and the same minimum (`dgflow.diffusion.losses.discriminator_loss`), so that
    a bad batch does not overflow.

    `loss="bce+gradient"` adds to the cross-entropy, which fits the value of the log-ratio, a loss of its
    gradient, which is what guides (Verine et al. 2025, arXiv 2503.16117): with D the network of `score`, the
    one to be guided, and x = x0 + sigma z a noisy real image,

        `gradient_weight` E[(|D + sigma^2 grad l - x0|^2 - |D - x0|^2) / sigma^2].

    The second square does not depend on the discriminator; with it, an untrained discriminator has the loss
    0. The mean is -Gain at weight 1 per unit of log sigma, in nats. Both losses have their minimum at the
    true log-ratio if the fakes are exact samples of the score network. At noise levels that the score network
    was not trained for, only the cross-entropy acts. A step takes the gradient of a gradient, through frozen
    features too: twice the operations, and an evaluation of the score network for each real row. The parts
    are recorded as `held_out_bce` and `held_out_gradient`.

    `fake` may be several slices, for a discriminator against a mixture: every batch takes the share of each
    that `fake_shares` gives, rounded to whole rows (by default all have the same share), and so do the
    held-out pairs. The logit is then the log-ratio of the real images to that mixture.

    Every epoch records its held-out loss, because too much training is the best-known way to make FID worse,
    and its calibration by noise level. The held-out loss is in the units of `loss`; if that is not "bce", the
    cross-entropy of the same logits is recorded beside it, as `held_out_bce`.

    With `gain_of`, the score network that is to be guided, every epoch also records Gain (theorem 2) on up to
    2,048 of the held-out real images, between `sigma_min` and `sigma_max`: for every weight, by noise level,
    with standard errors (`dgflow.diffusion.gain_curve`). `.best("gain")` is the epoch with the largest Gain
    at weight 1, `.best("gain_at_best_weight")` that with the largest at its own best weight. The score
    network is evaluated once per image and level.
    """

    schema_version: ClassVar[int] = 2  # batches are drawn by lanes
    held_out_metrics: ClassVar[Mapping[str, Best]] = {
        "held_out_loss": "lowest",
        "held_out_bce": "lowest",
        "held_out_gradient": "lowest",
        **GAIN_METRICS,
    }

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
    def _fits(self) -> TrainDiscriminator:
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
                f"expected fakes of the real ones' {real.channels} channels and {real.image_size} pixels a "
                f"side, found {fake.channels} and {fake.image_size}{_GREY if fake.channels == 1 else ''}"
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

    def cautions(self) -> list[str]:
        """Returns warnings about features that were trained without noise, and about a gradient that matches
        another network than that of the fakes."""
        lines = []
        below = None if self.features is None else self.features.step
        if self.noise != "none" and isinstance(below, TrainClassifier) and below.noise == "none":
            lines.append(
                f"{self.title}: its features are those of a classifier of clean images, which has seen no "
                'noise: train the classifier with noise="linear_vp", or the discriminator with noise="none"'
            )
        if self.score is not None:
            lines += [
                f"{self.title}: {name} is not from its score network, {self.score.title} "
                f"({self.score.which}), but from {weights.title} ({weights.which}): cross-entropy and the "
                "loss of the gradient then have different minima; take that network as score"
                for name, part in zip(self.slice_names[1:], self.fakes, strict=True)
                if isinstance(weights := getattr(part.origin.step, "score", None), Weights)
                and weights.identity != self.score.identity
            ]
        return lines

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

    def _toy_fields(self) -> dict[str, Any]:
        fields = super()._toy_fields()
        least = 2 * len(self.fakes)  # rows of a batch in which each slice has one
        return fields | {"batch_size": max(fields["batch_size"], least), "fake_shares": None}

    @property
    def title(self) -> str:
        clean = " of clean images" if self.noise == "none" else ""
        return f"{super().title}{clean}{'' if self.bootstrap is None else f' bootstrap {self.bootstrap}'}"

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
    def chance(self) -> Chance:
        return CHANCE[self.loss]

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
    def uses(self) -> tuple[Use, Use]:
        return ("train-gradient", "gradient") if self.matches_gradient else super().uses

    @property
    def gain_images(self) -> int:
        """The number of held-out real images that Gain is measured on, each at every noise level."""
        if self.gain_of is None:
            return 0
        return measured_images(self._held_out_real, self.shape, self.levels)

    def work(self, amount: int) -> list[Work]:
        works, items = super().work(amount), self.levels * self.gain_images
        if self.matches_gradient and self.score is not None and amount:
            real = (self.steps_per_epoch * self.batch_size + self.held_out_items) // 2
            works.append(
                Work(self.score.step, "forward", amount * real, self.batch_size // 2, self.precision)
            )
        if self.gain_of is None or not amount:
            return works
        gradients = Work(self, "gradient", amount * items, self.batch_size, self.precision)
        return [*works, gradients, Work(self.gain_of.step, "forward", items, self.batch_size, self.precision)]

    def best(self, metric: str = "held_out_loss") -> Weights:
        if metric in GAIN_METRICS and self.gain_of is None:
            raise ValueError(
                f"{self.kind} measures no Gain, so no epoch can be chosen by {metric}: set gain_of to the "
                "weights of the score network that is to be guided, as in gain_of=score.last()"
            )
        if metric == "held_out_gradient" and not self.matches_gradient:
            raise ValueError(
                f"{self.kind} has no loss of the gradient, so no epoch can be chosen by {metric}: set "
                'loss="bce+gradient" and score to the weights of the score network that is to be guided'
            )
        if metric == "held_out_bce" and self.loss == "bce":
            metric = "held_out_loss"
        return super().best(metric)

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

    def build(self, inputs: Bound) -> nn.Module:
        """Builds the network with a fresh head."""
        return self.architecture.assemble(self.shape._replace(num_classes=self.classes), inputs.network)

    def training_task(self, inputs: Bound) -> TrainingTask:
        import torch

        from dgflow.diffusion.acceleration import device
        from dgflow.specs.training_task import TrainingTask
        from dgflow.steps.training.discriminator_data import RealAndFake
        from dgflow.steps.training.draws import fresh_network

        own_device = device()
        data = RealAndFake(
            self,
            inputs,
            names=self.slice_names,
            fakes=self.fake_rows(self.batch_size // 2),
            held_out=self.fake_rows(self.held_out_pairs),
            num_classes=self.classes,
            device=own_device,
        )
        network = fresh_network(self, inputs, own_device)
        task = self._task(inputs, data, own_device)
        trained = self.trained_part(network)
        learning = [parameter for parameter in trained.parameters() if parameter.requires_grad]
        return TrainingTask(
            network=network,
            trained=trained,
            optimizer=torch.optim.Adam(learning, lr=self.learning_rate, weight_decay=self.weight_decay),
            batch_size=self.batch_size,
            steps_per_epoch=self.steps_per_epoch,
            loss=task.loss,
            held_out=self.held_out_items,
            measure=task.measure,
            summarise=task.summarise,
            further=self._further(inputs, data.real, own_device),
            data=data.streams,
            device=own_device,
            precision=self.activations,
        )

    def _task(self, inputs: Bound, data: RealAndFake, device: torch.device) -> LogRatioTask | CleanTask:
        """Returns the task: loss and held-out measurements."""
        from dgflow.steps.training.clean_task import CleanTask
        from dgflow.steps.training.discriminator_task import LogRatioTask

        asked: dict[str, Any] = {
            "data": data,
            "kind": "bce" if self.matches_gradient else self.loss,
            "time_map": self.architecture.time_map(),
            "conditional": self.conditional,
            "precision": self.precision,
            "device": device,
        }
        if self.noise == "none":
            return CleanTask(**asked)
        return LogRatioTask(
            **asked,
            seed=self.seed,
            levels=self.levels,
            drawn_range=self.drawn_range,
            measured_range=(self.sigma_min, self.sigma_max),
            matching=self._matching(inputs, device),
        )

    def _matching(self, inputs: Bound, device: torch.device) -> GradientMatching | None:
        """Returns the loss of the gradient, if there is one."""
        if self.score is None:
            return None
        from dgflow.steps.training.gradient_matching import GradientMatching

        score = self._frozen("score", self.score, inputs, device)
        low, high = self.drawn_range
        sigma_range = score.trained_range(
            min(low, self.sigma_min), max(high, self.sigma_max), use="to match the gradient at"
        )
        return GradientMatching(score, self.gradient_weight, sigma_range)

    def _frozen(self, name: str, score: Weights, inputs: Bound, device: torch.device) -> FrozenScore:
        from dgflow.steps.frozen_score import FrozenScore

        return FrozenScore(
            score,
            load=lambda: inputs.network(name),
            conditional=self.conditional,
            precision=self.precision,
            device=device,
            name=self.name,
        )

    def _further(self, inputs: Bound, real: Stream, device: torch.device) -> list[Measurement]:
        """Returns the measurement of Gain, if Gain is measured."""
        if self.gain_of is None:
            return []
        from dgflow.specs.training_task import Measurement
        from dgflow.steps.gain_items import GainItems

        items = GainItems(
            rows=real.held_out_rows,
            images=self.gain_images,
            score=self._frozen("gain_of", self.gain_of, inputs, device),
            seed=self.seed,
            levels=self.levels,
            sigma_range=(self.sigma_min, self.sigma_max),
            time_map=self.architecture.time_map(),
            batch_size=self.batch_size,
        )
        return [Measurement(items.items, items.measure, items.summarise)]
