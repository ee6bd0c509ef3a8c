"""TrainClassifier: ADM's encoder as a classifier, of clean images (a metric's feature network) or of noisy ones (a discriminator's)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dgflow.steps.network_specs import ADMEncoder, time_map
from dgflow.steps.shapes import data_shape
from dgflow.steps.step import Slice, TrainStep

if TYPE_CHECKING:
    from torch import nn

    from dgflow.runtime.training import TrainingTask
    from dgflow.steps.binding import Bound


class TrainClassifier(TrainStep):
    """Cross-entropy over the classes of `real`.

    `noise="none"` sees clean images at time 0; with `network.pool="adaptive"` its pooled features and logits are what `Features` takes.
    `noise="linear_vp"` sees images diffused to importance-sampled linear-VP times (Kim et al. 2023), and is told them as `network.time`
    says; it may guide, and then it may not judge. `shift` moves training images by up to that many pixels each way.
    """

    real: Slice
    network: ADMEncoder = ADMEncoder(pool="adaptive")
    noise: Literal["none", "linear_vp"] = "none"
    weight_decay: float = Field(default=0.05, ge=0)
    shift: int = Field(default=0, ge=0)

    def build(self, inputs: Bound) -> nn.Module:
        """The network with fresh weights."""
        del inputs
        shape = data_shape(self.real.step)
        return self.network.build(image_size=shape.image_size, in_channels=shape.channels, out_channels=shape.num_classes)

    def trained_part(self, network: nn.Module) -> nn.Module:
        return network

    def training_task(self, inputs: Bound) -> TrainingTask:
        import torch

        from dgflow.diffusion import noise
        from dgflow.diffusion.losses import classifier_loss, perturb
        from dgflow.diffusion.times import importance_tau, sigma_from_tau
        from dgflow.runtime.training import TrainingTask, device
        from dgflow.steps.training_data import ImageSet

        shape = data_shape(self.real.step)
        data = ImageSet.of(inputs.rows("real"), self.held_out, num_classes=shape.num_classes, source=self.real.step.name)
        torch.manual_seed(self.seed)
        network, place = self.build(inputs).to(device()), device()
        told = time_map(self.network.time)

        def noisy(images: torch.Tensor, index: torch.Tensor, level: int, draw: int) -> tuple[torch.Tensor, torch.Tensor]:
            if self.noise == "none":
                return images, torch.zeros(len(images), device=place)
            tau_B = importance_tau(noise.uniform(self.seed, index, (), step=0, draw=level)).to(place)
            added = noise.standard_normal(self.seed, index, images.shape[1:], step=0, draw=draw).float().to(place)
            return perturb(images, tau_B.float(), added), told(sigma_from_tau(tau_B.double())).float()

        def loss(network: nn.Module, slots: torch.Tensor, step: int) -> torch.Tensor:
            positions = step * self.batch_size + slots
            images, labels = (part.to(place) for part in data.take(data.drawn(self.seed, positions)))
            if self.shift:
                down, right = (
                    noise.integers(self.seed, positions, 2 * self.shift + 1, step=axis, draw=noise.FLIP) - self.shift for axis in (0, 1)
                )
                images = torch.stack([image.roll((int(y), int(x)), (1, 2)) for image, y, x in zip(images, down, right, strict=True)])
            return classifier_loss(network(*noisy(images, positions, noise.LEVEL, noise.NOISE)), labels)

        def measure(network: nn.Module, items: torch.Tensor) -> dict[str, torch.Tensor]:
            images, labels = (part.to(place) for part in data.take(data.kept_apart(items)))
            logits = network(*noisy(images, items, noise.EVALUATION_LEVEL, noise.EVALUATION_NOISE))
            return {"loss": classifier_loss(logits, labels), "right": (logits.argmax(1) == labels).float()}

        return TrainingTask(
            network=network,
            trained=network,
            optimizer=torch.optim.AdamW(network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay),
            batch_size=self.batch_size,
            steps_per_epoch=max(1, (self.images_per_epoch or data.training) // self.batch_size),
            loss=loss,
            held_out=data.held,
            measure=measure,
            summarise=lambda values: {
                "held_out_loss": float(values["loss"].double().mean()),
                "held_out_accuracy": float(values["right"].double().mean()),
            },
            device=place,
        )
