"""TrainDiscriminator: real against fake at every noise level; its logit is the log-ratio that guides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dgflow.networks.adm.spec import ADMEncoder
from dgflow.networks.discriminator.spec import Discriminator
from dgflow.specs.spec import ActivationPrecision
from dgflow.specs.step import Slice, Weights
from dgflow.specs.train_step import TrainStep

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dgflow.specs.bound import Bound
    from dgflow.specs.training_task import TrainingTask

CALIBRATION_BINS = 8
_GREY = "; import grey pictures with channels=1, which takes three equal channels as one"
TAU_MIN = 1e-5  # of the published times


class TrainDiscriminator(TrainStep):
    """Binary cross-entropy on diffused images (Kim et al. 2023, Algorithm 1): real = 1, fake = 0.

    Batches are half real, half fake; an epoch is one pass over the real images, and where there are fewer
    fakes, these come round more often. Noise levels are drawn with log sigma uniform on [`sigma_min`,
    `sigma_max`]: the default is where guidance with its default window acts in EDM's sampler.
    `times="importance"` draws them as published, tau in [1e-5, 1] importance-sampled, which is log sigma
    uniform on [0.001, 152] and spends a third of its draws below that window; the two limits then apply to
    measuring alone. `precision` is that of activations; weights, optimiser and loss are float32.

    With `features`, `network` reads the middle features of a frozen classifier of noisy images, as in the
    paper, else the images themselves. Both get the time that those features were trained with
    (`ADMEncoder.time`), here and when guiding; the published code trains on linear-VP time at 64 pixels and
    guides with cosine time.

    Every epoch records its held-out loss, because too much training is the best-known way to make FID worse,
    and its calibration by noise level.
    """

    schema_version: ClassVar[int] = 2  # batches are drawn by lanes
    held_out_metrics: ClassVar[tuple[str, ...]] = ("held_out_loss",)

    share: ClassVar[int] = 2
    levels: ClassVar[int] = 8  # spread evenly over log sigma

    fake: Slice
    network: ADMEncoder = ADMEncoder()
    features: Weights | None = None
    conditional: bool = True
    sigma_min: float = Field(default=0.0447, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)
    times: Literal["log-uniform", "importance"] = "log-uniform"
    weight_decay: float = Field(default=1e-7, ge=0)
    precision: ActivationPrecision = "float32"

    @model_validator(mode="after")
    def _fits(self) -> TrainDiscriminator:
        real, fake = self.shape, self.fake.step.shape
        if real[:2] != fake[:2]:
            raise ValueError(
                f"expected fakes of the real ones' {real.channels} channels and {real.image_size} pixels a "
                f"side, found {fake.channels} and {fake.image_size}{_GREY if fake.channels == 1 else ''}"
            )
        if self.conditional and real.num_classes != fake.num_classes:
            raise ValueError(
                f"expected fakes of the real ones' {real.num_classes} classes, found {fake.num_classes}; use "
                "conditional=False for a discriminator that is told no class"
            )
        if self.batch_size % 2:
            raise ValueError(f"expected an even batch size (half real, half fake), found {self.batch_size}")
        for part in (self.real, self.fake):
            self.split(part.rows, of=part.step.title, least=self.batch_size // 2)
        return self

    @property
    def architecture(self) -> Discriminator:
        """`network` as the head, on the trained features if there are any."""
        return Discriminator(head=self.network, features=self.features)

    @property
    def classes(self) -> int:
        return self.shape.num_classes if self.conditional else 0

    @property
    def activations(self) -> ActivationPrecision:
        return self.precision

    @property
    def held_out_items(self) -> int:
        # As many of each kind, so that chance is log 2.
        held = (self.split(part.rows, of=part.step.title)[1] for part in (self.real, self.fake))
        return 2 * self.levels * min(held)

    def build(self, inputs: Bound) -> nn.Module:
        """The network with a fresh head."""
        return self.architecture.assemble(self.shape._replace(num_classes=self.classes), inputs.network)

    def training_task(self, inputs: Bound) -> TrainingTask:
        import torch

        from dgflow.diffusion.acceleration import autocast, device
        from dgflow.diffusion.losses import discriminator_loss, perturb
        from dgflow.diffusion.times import log_uniform_sigma, sigma_from_tau, tau_from_sigma
        from dgflow.specs.training_task import TrainingTask
        from dgflow.steps.training.draws import Draws, fresh_network
        from dgflow.steps.training.stream import Stream

        own_device = device()
        # Slots alternate real and fake, so that every worker's share is balanced too.
        real, fake = (
            Stream(self, inputs, name, num_classes=self.classes, device=own_device, first=first, every=2)
            for first, name in enumerate(("real", "fake"))
        )
        network = fresh_network(self, inputs, own_device)
        time_of = self.architecture.time_map()
        drawn_range = self.sigma_min, self.sigma_max
        if self.times == "importance":
            drawn_range = sigma_from_tau(TAU_MIN), sigma_from_tau(1.0)

        def logits(
            network: nn.Module, batch: tuple[Tensor, Tensor], sigma_B: Tensor, index: Tensor, draws: Draws
        ) -> Tensor:
            images, labels = batch
            tau_B = tau_from_sigma(sigma_B).float().to(own_device)
            noisy = perturb(images, tau_B, draws.normals(index, images))
            time_B = time_of(sigma_B.to(own_device)).float()
            with autocast(own_device, self.precision):
                return network(noisy, time_B, labels if self.conditional else None).float()

        def loss(network: nn.Module, slots: Tensor, step: int) -> Tensor:
            index, is_real = step * self.batch_size + slots, slots % 2 == 0
            batch = _together(is_real, real.take(step, slots[is_real]), fake.take(step, slots[~is_real]))
            draws = Draws.training(self.seed)
            sigma_B = log_uniform_sigma(draws.uniform(index), *drawn_range)
            values = logits(network, batch, sigma_B, index, draws)
            return discriminator_loss(values, is_real.to(own_device))

        def measure(network: nn.Module, items: Tensor) -> dict[str, Tensor]:
            # Real and fake items follow each other with the same level, so that no bin has more of one than
            # of the other.
            is_real, pair = items % 2 == 0, items // 2
            held, level = pair // self.levels, pair % self.levels
            batch = _together(is_real, real.kept_apart(held[is_real]), fake.kept_apart(held[~is_real]))
            draws = Draws.held_out(self.seed)
            quantile_B = (level + draws.uniform(pair)) / self.levels
            sigma_B = log_uniform_sigma(quantile_B, self.sigma_min, self.sigma_max)
            values = logits(network, batch, sigma_B, items, draws)
            return {
                "logit": values.double(),
                "loss": discriminator_loss(values, is_real.to(own_device)).double(),
                "sigma": sigma_B.double(),
                "is_real": is_real,
            }

        head = self.trained_part(network)
        return TrainingTask(
            network=network,
            trained=head,
            optimizer=torch.optim.Adam(
                head.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
            ),
            batch_size=self.batch_size,
            steps_per_epoch=self.steps_per_epoch,
            loss=loss,
            held_out=self.held_out_items,
            measure=measure,
            summarise=lambda values: summarise(values, self.sigma_min, self.sigma_max),
            data=(real, fake),
            device=own_device,
            precision=self.activations,
        )


def _together(
    is_real: Tensor, real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Images and labels of both kinds, in the order of `is_real`."""
    import torch

    index = torch.where(is_real, is_real.cumsum(0) - 1, (~is_real).cumsum(0) - 1 + is_real.sum())
    index = index.to(real[0].device)
    return torch.cat([real[0], fake[0]])[index], torch.cat([real[1], fake[1]])[index]


def summarise(values: dict[str, Tensor], sigma_min: float, sigma_max: float) -> dict[str, Any]:
    """Held-out loss, accuracy, and calibration by noise level.

    `calibration_error` is the expected calibration error: the mean over `CALIBRATION_BINS` bins of predicted
    probability, weighted by their share of the items, of |share of real - mean prediction|. A discriminator
    at chance has loss log 2 = 0.693.
    """
    import torch

    probability, is_real = values["logit"].sigmoid(), values["is_real"].double()
    right = ((values["logit"] > 0) == values["is_real"].bool()).double()
    levels = torch.linspace(0, 1, TrainDiscriminator.levels + 1, dtype=torch.float64)
    edges = sigma_min * (sigma_max / sigma_min) ** levels
    by_sigma = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        chosen = (values["sigma"] >= low) & (values["sigma"] < high)
        if not chosen.any():
            continue
        bins = (probability[chosen] * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
        gaps = torch.zeros(CALIBRATION_BINS, dtype=torch.float64).index_add(
            0, bins, is_real[chosen] - probability[chosen]
        )
        by_sigma.append(
            {
                "sigma": [float(low), float(high)],
                "n": int(chosen.sum()),
                "loss": float(values["loss"][chosen].mean()),
                "accuracy": float(right[chosen].mean()),
                "calibration_error": float(gaps.abs().sum() / chosen.sum()),
            }
        )
    return {
        "held_out_loss": float(values["loss"].mean()),
        "held_out_accuracy": float(right.mean()),
        "by_sigma": by_sigma,
    }
