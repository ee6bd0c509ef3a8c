"""TrainScore: a small denoiser under EDM preconditioning, for runs that bring no checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from dgflow.steps.network_specs import SongUNet
from dgflow.steps.shapes import data_shape
from dgflow.steps.step import Slice, TrainStep

if TYPE_CHECKING:
    from torch import nn

    from dgflow.runtime.training import TrainingTask
    from dgflow.steps.binding import Bound

MEASURED_LEVELS = 4  # noise levels at which each held-out image is measured


class TrainScore(TrainStep):
    """Denoising score matching as in EDM (Karras et al. 2022, Table 1).

    Log-normal noise levels, weighted squared error, averaged weights.
    """

    real: Slice
    network: SongUNet = SongUNet()
    conditional: bool = True
    P_mean: float = -1.2
    P_std: float = 1.2
    ema_halflife: int = Field(default=500_000, gt=0)  # images

    def build(self, inputs: Bound) -> nn.Module:
        """The network with fresh weights."""
        del inputs
        shape = data_shape(self.real.step)
        return self.network.build(
            image_size=shape.image_size, channels=shape.channels, num_classes=shape.num_classes if self.conditional else 0
        )

    def trained_part(self, network: nn.Module) -> nn.Module:
        return network

    def training_task(self, inputs: Bound) -> TrainingTask:
        import torch

        from dgflow.diffusion import noise
        from dgflow.diffusion.losses import edm_loss, lognormal_sigma
        from dgflow.runtime.training import TrainingTask, device
        from dgflow.steps.training_data import ImageSet

        shape = data_shape(self.real.step)
        data = ImageSet.of(inputs.rows("real"), self.held_out, num_classes=shape.num_classes, source=self.real.step.name)
        torch.manual_seed(self.seed)
        network, place = self.build(inputs).to(device()), device()

        def losses(network: nn.Module, items: torch.Tensor, index: torch.Tensor, level: int, draw: int) -> torch.Tensor:
            images, labels = (part.to(place) for part in data.take(items))
            normal = noise.standard_normal(self.seed, index, (), step=0, draw=level).float().to(place)
            added = noise.standard_normal(self.seed, index, images.shape[1:], step=0, draw=draw).float().to(place)
            sigma_B = lognormal_sigma(normal, self.P_mean, self.P_std)
            return edm_loss(network, images, sigma_B, added, labels if self.conditional else None, self.network.sigma_data)

        def loss(network: nn.Module, slots: torch.Tensor, step: int) -> torch.Tensor:
            positions = step * self.batch_size + slots
            return losses(network, data.drawn(self.seed, positions), positions, noise.LEVEL, noise.NOISE)

        def measure(network: nn.Module, items: torch.Tensor) -> dict[str, torch.Tensor]:
            return {
                "loss": losses(network, data.kept_apart(items // MEASURED_LEVELS), items, noise.EVALUATION_LEVEL, noise.EVALUATION_NOISE)
            }

        return TrainingTask(
            network=network,
            trained=network,
            optimizer=torch.optim.Adam(network.parameters(), lr=self.learning_rate),
            batch_size=self.batch_size,
            steps_per_epoch=max(1, (self.images_per_epoch or data.training) // self.batch_size),
            loss=loss,
            held_out=data.held * MEASURED_LEVELS,
            measure=measure,
            summarise=lambda values: {"held_out_loss": float(values["loss"].double().mean())},
            ema_halflife=self.ema_halflife,
            device=place,
        )
