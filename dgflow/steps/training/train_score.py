"""TrainScore: a small denoiser under EDM preconditioning, trained from fresh or given weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator

from dgflow.diffusion.weighting_specs import RatioWeighting
from dgflow.networks.edm.spec import DhariwalUNet, SongUNet
from dgflow.networks.edm2.spec import EDM2UNet
from dgflow.networks.families import score_network
from dgflow.specs.spec import LATER
from dgflow.specs.step import Best, Weights, Work
from dgflow.specs.train_step import TrainStep
from dgflow.steps.gain_checks import check_score
from dgflow.steps.guides import check_guide, check_knows_noise

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from dgflow.specs.bound import Bound
    from dgflow.specs.training_task import TrainingTask

WEIGHTED = "held_out_weighted_loss"


class TrainScore(TrainStep):
    """Denoising score matching as in EDM (Karras et al. 2022, Table 1).

    Log-normal noise levels, weighted squared error, averaged weights, no augmentation.

    With `start` the training starts from weights of the same network, trained here or elsewhere. If they are
    an average, both the weights and the new average start from it; the new average has the half-life
    `ema_halflife` from the first step on. The optimiser is fresh: its moments are not part of any weights. To
    continue a training with its optimiser, raise its `epochs`. Use a `seed` different from that of the
    training that the weights come from: batches and noise are functions of seed and step, and would repeat.

    With `weighting` the denoising errors are weighted by a discriminator's ratio, so that they lower an
    f-divergence other than Kullback-Leibler's (`RatioWeighting`). `held_out_loss` remains the unweighted
    loss, which is comparable between weightings; beside it are `held_out_weighted_loss` and the mean of the
    weights, `held_out_weight`.
    """

    schema_version: ClassVar[int] = 2  # batches are drawn by lanes
    held_out_metrics: ClassVar[Mapping[str, Best]] = {"held_out_loss": "lowest", WEIGHTED: "lowest"}

    averages: ClassVar[bool] = True
    levels: ClassVar[int] = 4

    network: SongUNet | DhariwalUNet | EDM2UNet = SongUNet()
    conditional: bool = True
    P_mean: float = -1.2
    P_std: float = 1.2
    ema_halflife: int = Field(default=500_000, gt=0)  # in images
    start: Annotated[Weights | None, LATER] = None
    weighting: Annotated[RatioWeighting | None, LATER] = None

    @model_validator(mode="after")
    def _fits(self) -> TrainScore:
        self.split("real")
        if self.start is not None:
            self._check_start(self.start)
        if self.weighting is not None:
            self._check_discriminator(self.weighting.discriminator)
        if self._received_classes:
            user = "the network" if self.conditional else "the discriminator of weighting"
            self.real.check_labelled("real", user, "take one with conditional=False")
        return self

    def _check_start(self, start: Weights) -> None:
        check_score(start, self.real, field="start")
        if start.step.classes != self.classes:
            raise ValueError(
                f"start: expected weights of a network of {self.classes} classes, found "
                f"{start.step.classes}; use conditional={start.step.classes > 0}"
            )
        if found := self.network.unlike(score_network(start)):
            raise ValueError(
                f"start: expected weights of the network that is trained, {type(self.network).__name__} with "
                f"the same fields, found {found}; use network=start.step.network"
            )

    def _check_discriminator(self, discriminator: Weights) -> None:
        where, shape = "weighting.discriminator", self.shape
        check_guide(where, where, discriminator, "discriminator", shape, shape.num_classes)
        check_knows_noise(where, discriminator)
        if discriminator.step.classes and not shape.num_classes:
            raise ValueError(
                f"{where}: expected a discriminator without classes, as the real images have none, found "
                f"one of {discriminator.step.classes} classes; train it with conditional=False"
            )

    @property
    def title(self) -> str:
        further = " further" if self.start is not None else ""
        return f"{super().title}{further}{' weighted' if self.weighting is not None else ''}"

    @property
    def classes(self) -> int:
        return self.shape.num_classes if self.conditional else 0

    @property
    def _received_classes(self) -> int:
        """The number of classes whose labels the network or the discriminator receives, 0 for none."""
        guide = 0 if self.weighting is None else self.weighting.discriminator.step.classes
        return self.shape.num_classes if self.conditional or guide else 0

    def best(self, metric: str = "held_out_loss") -> Weights:
        if metric == WEIGHTED and self.weighting is None:
            raise ValueError(
                f"{self.kind} has no weighting, so no epoch can be chosen by {metric}: use .best(), by the "
                "loss itself"
            )
        return super().best(metric)

    def work(self, amount: int) -> list[Work]:
        works = super().work(amount)
        if self.weighting is None:
            return works
        asked = amount * (self.steps_per_epoch * self.batch_size + self.held_out_items)
        return [*works, Work(self.weighting.discriminator.step, "forward", asked, self.batch_size)]

    def _begun(self, inputs: Bound, device: torch.device) -> nn.Module:
        """Returns the network before the first step."""
        from dgflow.steps.training.draws import fresh_network

        network = fresh_network(self, inputs, device)
        if self.start is not None:
            network.load_state_dict(inputs.network("start").state_dict())
        for name in self.network.untrained:  # workers that share a batch would wait for their gradients
            network.get_submodule(name).requires_grad_(False)
        return network

    def training_task(self, inputs: Bound) -> TrainingTask:
        import torch

        from dgflow.diffusion.acceleration import device
        from dgflow.diffusion.losses import edm_loss, lognormal_sigma
        from dgflow.diffusion.times import per_sample
        from dgflow.specs.training_task import TrainingTask
        from dgflow.steps.training.draws import Draws
        from dgflow.steps.training.ratio_weights import RatioWeights
        from dgflow.steps.training.stream import Stream

        own_device = device()
        data = Stream(self, inputs, "real", num_classes=self._received_classes, device=own_device)
        network = self._begun(inputs, own_device)
        weights = None
        if self.weighting is not None:
            weights = RatioWeights.loaded(self.weighting, inputs, "weighting", own_device)

        def losses(
            network: nn.Module, batch: tuple[Tensor, Tensor], index: Tensor, draws: Draws
        ) -> tuple[Tensor, Tensor | None]:
            """Returns denoising errors [b], and their weights if there are any."""
            images, labels = batch
            sigma_B = lognormal_sigma(draws.normal(index).to(own_device), self.P_mean, self.P_std)
            given = labels if self.conditional else None
            noise = draws.normals(index, images)
            errors = edm_loss(network, images, sigma_B, noise, given, self.network.sigma_data)
            if weights is None:
                return errors, None
            return errors, weights.of(images + per_sample(sigma_B, images) * noise, sigma_B, labels)

        def loss(network: nn.Module, slots: Tensor, step: int) -> Tensor:
            index = step * self.batch_size + slots
            errors, weight = losses(network, data.take(step, slots), index, Draws.training(self.seed))
            return errors if weight is None else weight * errors

        def measure(network: nn.Module, items: Tensor) -> dict[str, Tensor]:
            batch = data.held_out_rows(items // self.levels)
            errors, weight = losses(network, batch, items, Draws.held_out(self.seed))
            return {"loss": errors} | ({} if weight is None else {"weight": weight})

        def summarise(values: dict[str, Tensor]) -> dict[str, float]:
            errors = values["loss"].double()
            metrics = {"held_out_loss": float(errors.mean())}
            if (weight := values.get("weight")) is not None:
                metrics[WEIGHTED] = float((weight.double() * errors).mean())
                metrics["held_out_weight"] = float(weight.double().mean())
            return metrics

        return TrainingTask(
            network=network,
            trained=network,
            optimizer=torch.optim.Adam(network.parameters(), lr=self.learning_rate),
            batch_size=self.batch_size,
            steps_per_epoch=self.steps_per_epoch,
            loss=loss,
            held_out=self.held_out_items,
            measure=measure,
            summarise=summarise,
            data=(data,),
            ema_halflife=self.ema_halflife,
            ema_ramp_up=self.start is None,
            device=own_device,
            precision=self.activations,
        )
