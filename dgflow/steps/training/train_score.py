"""TrainScore: a small denoiser under EDM preconditioning, for runs that bring no checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from dgflow.networks.edm.spec import SongUNet
from dgflow.specs.network import DataShape
from dgflow.specs.step import Slice, TrainStep
from dgflow.steps.shapes import data_shape

if TYPE_CHECKING:
    from torch import nn

    from dgflow.specs.bound import Bound
    from dgflow.specs.training_task import TrainingTask

MEASURED_LEVELS = 4  # noise levels at which each held-out image is measured


class TrainScore(TrainStep):
    """Denoising score matching as in EDM (Karras et al. 2022, Table 1).

    Log-normal noise levels, weighted squared error, averaged weights.
    """

    schema_version: ClassVar[int] = 2  # batches are drawn by lanes

    real: Slice
    network: SongUNet = SongUNet()
    conditional: bool = True
    P_mean: float = -1.2
    P_std: float = 1.2
    ema_halflife: int = Field(default=500_000, gt=0)  # images

    @model_validator(mode="after")
    def _enough(self) -> TrainScore:
        self.split(self.real.rows, of=self.real.step.title)
        return self

    @property
    def shape(self) -> DataShape:
        return data_shape(self.real.step)

    @property
    def classes(self) -> int:
        return self.shape.num_classes if self.conditional else 0

    def training_task(self, inputs: Bound) -> TrainingTask:
        import torch

        from dgflow.diffusion import noise
        from dgflow.diffusion.acceleration import device
        from dgflow.diffusion.losses import edm_loss, lognormal_sigma
        from dgflow.specs.training_task import TrainingTask
        from dgflow.steps.training.rows import normals
        from dgflow.steps.training.stream import Stream

        place = device()
        data = Stream(self, inputs, "real", num_classes=data_shape(self.real.step).num_classes, device=place)
        torch.manual_seed(self.seed)
        network = self.build(inputs).to(place)

        def losses(
            network: nn.Module,
            batch: tuple[torch.Tensor, torch.Tensor],
            index: torch.Tensor,
            level: int,
            draw: int,
        ) -> torch.Tensor:
            images, labels = batch
            normal = noise.standard_normal(self.seed, index, (), step=0, draw=level).float().to(place)
            added = normals(self.seed, index, images.shape[1:], draw=draw, device=place)
            sigma_B = lognormal_sigma(normal, self.P_mean, self.P_std)
            return edm_loss(
                network, images, sigma_B, added, labels if self.conditional else None, self.network.sigma_data
            )

        def loss(network: nn.Module, slots: torch.Tensor, step: int) -> torch.Tensor:
            return losses(
                network, data.take(step, slots), step * self.batch_size + slots, noise.LEVEL, noise.NOISE
            )

        def measure(network: nn.Module, items: torch.Tensor) -> dict[str, torch.Tensor]:
            kept = data.kept_apart(items // MEASURED_LEVELS)
            return {"loss": losses(network, kept, items, noise.EVALUATION_LEVEL, noise.EVALUATION_NOISE)}

        return TrainingTask(
            network=network,
            trained=network,
            optimizer=torch.optim.Adam(network.parameters(), lr=self.learning_rate),
            batch_size=self.batch_size,
            steps_per_epoch=self.steps_per_epoch(data.training),
            loss=loss,
            held_out=data.held * MEASURED_LEVELS,
            measure=measure,
            summarise=lambda values: {"held_out_loss": float(values["loss"].double().mean())},
            data=(data,),
            ema_halflife=self.ema_halflife,
            device=place,
        )
