"""TrainDiscriminator: real against fake at every noise level; its logit is the log-ratio that guides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from dgflow.steps.network_specs import ADMEncoder, Discriminator, time_map, time_of
from dgflow.steps.shapes import data_shape
from dgflow.steps.step import Slice, TrainStep, Weights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dgflow.runtime.training import TrainingTask
    from dgflow.steps.binding import Bound
    from dgflow.steps.training_data import ImageSet

MEASURED_LEVELS = 8  # noise levels at which each held-out image is measured, spread evenly over log sigma
CALIBRATION_BINS = 8


class TrainDiscriminator(TrainStep):
    """Binary cross-entropy on diffused images (Kim et al. 2023, Algorithm 1): real = 1, fake = 0.

    Batches are half real, half fake; an epoch is one pass over the real images. Noise levels are drawn with log sigma uniform on
    [`sigma_min`, `sigma_max`]: the default is where guidance with its default window acts in EDM's sampler (the published range, tau in
    [1e-5, 1], spends a third of its draws below it). With `features`, `network` reads the middle features of a frozen classifier of noisy
    images, as in the paper, else the images themselves. The time that both are told is what those features were trained with
    (`ADMEncoder.time`), here and when guiding; the published code trains on linear-VP time at 64 pixels and guides with cosine time.

    Every epoch records its held-out loss, because more training is the best-known way to make FID worse, and its calibration by noise
    level.
    """

    real: Slice
    fake: Slice
    network: ADMEncoder = ADMEncoder()
    features: Weights | None = None
    conditional: bool = True
    sigma_min: float = Field(default=0.0447, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)
    weight_decay: float = Field(default=1e-7, ge=0)

    @model_validator(mode="after")
    def _same_shape(self) -> TrainDiscriminator:
        real, fake = data_shape(self.real.step), data_shape(self.fake.step)
        if real != fake:
            raise ValueError(f"expected fakes of the real images' shape {real}, found {fake}")
        if self.batch_size % 2:
            raise ValueError(f"expected an even batch size (half real, half fake), found {self.batch_size}")
        return self

    def build(self, inputs: Bound) -> nn.Module:
        """The network with a fresh head on the trained features, if there are any."""
        shape = data_shape(self.real.step)
        return Discriminator(head=self.network, features=self.features).build(
            inputs.network("features") if self.features else None,
            image_size=shape.image_size,
            in_channels=shape.channels,
            num_classes=shape.num_classes if self.conditional else None,
        )

    def trained_part(self, network: nn.Module) -> nn.Module:
        from dgflow.networks.discriminator import Discriminator as Network

        assert isinstance(network, Network)
        return network.head

    def training_task(self, inputs: Bound) -> TrainingTask:
        import torch

        from dgflow.diffusion import noise
        from dgflow.diffusion.losses import discriminator_loss, perturb
        from dgflow.diffusion.times import log_uniform_sigma, tau_from_sigma
        from dgflow.runtime.training import TrainingTask, device
        from dgflow.steps.training_data import ImageSet

        shape = data_shape(self.real.step)
        real, fake = (
            ImageSet.of(
                inputs.rows(name),
                self.held_out,
                num_classes=shape.num_classes if self.conditional else 0,
                source=getattr(self, name).step.name,
            )
            for name in ("real", "fake")
        )
        torch.manual_seed(self.seed)
        network, place = self.build(inputs).to(device()), device()
        told = time_map(time_of(self))
        held = min(real.held, fake.held)  # as many of each, so that chance is log 2

        def logits(network: nn.Module, images: Tensor, labels: Tensor, sigma_B: Tensor, index: Tensor, draw: int) -> Tensor:
            tau_B = tau_from_sigma(sigma_B).float().to(place)
            told_B = told(sigma_B.to(place)).float()
            added = noise.standard_normal(self.seed, index, images.shape[1:], step=0, draw=draw).float().to(place)
            return network(perturb(images, tau_B, added), told_B, labels if self.conditional else None)

        def loss(network: nn.Module, slots: Tensor, step: int) -> Tensor:
            # Slots alternate real and fake, so that every worker's share is balanced too.
            index = step * self.batch_size + slots
            is_real = slots % 2 == 0
            halves = index // 2
            images, labels = _mixed(real, fake, is_real, real.drawn(self.seed, halves), fake.drawn(self.seed, halves))
            sigma_B = log_uniform_sigma(noise.uniform(self.seed, index, (), step=0, draw=noise.LEVEL), self.sigma_min, self.sigma_max)
            values = logits(network, images.to(place), labels.to(place), sigma_B, index, noise.NOISE)
            return discriminator_loss(values, is_real.to(place))

        def measure(network: nn.Module, items: Tensor) -> dict[str, Tensor]:
            # Real and fake items follow each other with the same level, so that no bin has more of one than of the other.
            is_real, pair = items % 2 == 0, items // 2
            kept, level = pair // MEASURED_LEVELS, pair % MEASURED_LEVELS
            images, labels = _mixed(real, fake, is_real, real.kept_apart(kept), fake.kept_apart(kept))
            offset = noise.uniform(self.seed, pair, (), step=0, draw=noise.EVALUATION_LEVEL)
            sigma_B = log_uniform_sigma((level + offset) / MEASURED_LEVELS, self.sigma_min, self.sigma_max)
            values = logits(network, images.to(place), labels.to(place), sigma_B, items, noise.EVALUATION_NOISE)
            return {
                "logit": values.double(),
                "loss": discriminator_loss(values, is_real.to(place)).double(),
                "sigma": sigma_B.double(),
                "is_real": is_real,
            }

        return TrainingTask(
            network=network,
            trained=self.trained_part(network),
            optimizer=torch.optim.Adam(self.trained_part(network).parameters(), lr=self.learning_rate, weight_decay=self.weight_decay),
            batch_size=self.batch_size,
            steps_per_epoch=max(1, 2 * (self.images_per_epoch or real.training) // self.batch_size),
            loss=loss,
            held_out=2 * held * MEASURED_LEVELS,
            measure=measure,
            summarise=lambda values: summarise(values, self.sigma_min, self.sigma_max),
            device=place,
        )


def _mixed(real: ImageSet, fake: ImageSet, is_real: Tensor, real_items: Tensor, fake_items: Tensor) -> tuple[Tensor, Tensor]:
    import torch

    real_images, real_labels = real.take(real_items)
    fake_images, fake_labels = fake.take(fake_items)
    return torch.where(is_real[:, None, None, None], real_images, fake_images), torch.where(is_real, real_labels, fake_labels)


def summarise(values: dict[str, Tensor], sigma_min: float, sigma_max: float) -> dict[str, Any]:
    """Held-out loss, accuracy, and calibration by noise level.

    `calibration_error` is the expected calibration error: the mean over `CALIBRATION_BINS` bins of predicted probability, weighted by their
    share of the items, of |share of real - mean prediction|. A discriminator at chance has loss log 2 = 0.693.
    """
    import torch

    probability, is_real = values["logit"].sigmoid(), values["is_real"].double()
    right = ((values["logit"] > 0) == values["is_real"].bool()).double()
    levels = torch.linspace(0, 1, MEASURED_LEVELS + 1, dtype=torch.float64)
    edges = sigma_min * (sigma_max / sigma_min) ** levels
    by_sigma = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        chosen = (values["sigma"] >= low) & (values["sigma"] < high)
        if not chosen.any():
            continue
        bins = (probability[chosen] * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
        gaps = torch.zeros(CALIBRATION_BINS, dtype=torch.float64).index_add(0, bins, is_real[chosen] - probability[chosen])
        by_sigma.append(
            {
                "sigma": [float(low), float(high)],
                "n": int(chosen.sum()),
                "loss": float(values["loss"][chosen].mean()),
                "accuracy": float(right[chosen].mean()),
                "calibration_error": float(gaps.abs().sum() / chosen.sum()),
            }
        )
    return {"held_out_loss": float(values["loss"].mean()), "held_out_accuracy": float(right.mean()), "by_sigma": by_sigma}
