"""TrainScore: a small denoiser under EDM preconditioning, for runs that bring no checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from dgflow.networks.edm.spec import SongUNet
from dgflow.specs.step import Best
from dgflow.specs.train_step import TrainStep

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dgflow.specs.bound import Bound
    from dgflow.specs.training_task import TrainingTask


class TrainScore(TrainStep):
    """Denoising score matching as in EDM (Karras et al. 2022, Table 1).

    Log-normal noise levels, weighted squared error, averaged weights.
    """

    schema_version: ClassVar[int] = 2  # batches are drawn by lanes
    held_out_metrics: ClassVar[Mapping[str, Best]] = {"held_out_loss": "smallest"}

    averages: ClassVar[bool] = True
    levels: ClassVar[int] = 4

    network: SongUNet = SongUNet()
    conditional: bool = True
    P_mean: float = -1.2
    P_std: float = 1.2
    ema_halflife: int = Field(default=500_000, gt=0)  # images

    @model_validator(mode="after")
    def _enough(self) -> TrainScore:
        self.split("real")
        return self

    @property
    def classes(self) -> int:
        return self.shape.num_classes if self.conditional else 0

    def training_task(self, inputs: Bound) -> TrainingTask:
        import torch

        from dgflow.diffusion.acceleration import device
        from dgflow.diffusion.losses import edm_loss, lognormal_sigma
        from dgflow.specs.training_task import TrainingTask
        from dgflow.steps.training.draws import Draws, fresh_network
        from dgflow.steps.training.stream import Stream

        own_device = device()
        data = Stream(self, inputs, "real", num_classes=self.shape.num_classes, device=own_device)
        network = fresh_network(self, inputs, own_device)

        def losses(network: nn.Module, batch: tuple[Tensor, Tensor], index: Tensor, draws: Draws) -> Tensor:
            images, labels = batch
            sigma_B = lognormal_sigma(draws.normal(index).to(own_device), self.P_mean, self.P_std)
            given = labels if self.conditional else None
            noise = draws.normals(index, images)
            return edm_loss(network, images, sigma_B, noise, given, self.network.sigma_data)

        def loss(network: nn.Module, slots: Tensor, step: int) -> Tensor:
            index = step * self.batch_size + slots
            return losses(network, data.take(step, slots), index, Draws.training(self.seed))

        def measure(network: nn.Module, items: Tensor) -> dict[str, Tensor]:
            batch = data.kept_apart(items // self.levels)
            return {"loss": losses(network, batch, items, Draws.held_out(self.seed))}

        return TrainingTask(
            network=network,
            trained=network,
            optimizer=torch.optim.Adam(network.parameters(), lr=self.learning_rate),
            batch_size=self.batch_size,
            steps_per_epoch=self.steps_per_epoch,
            loss=loss,
            held_out=self.held_out_items,
            measure=measure,
            summarise=lambda values: {"held_out_loss": float(values["loss"].double().mean())},
            data=(data,),
            ema_halflife=self.ema_halflife,
            device=own_device,
            precision=self.activations,
        )
