"""TrainClassifier: ADM's encoder as a classifier, of clean images (a metric's feature network) or of noisy
ones (a discriminator's)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from dgflow.networks.adm.spec import ADMEncoder
from dgflow.specs.network import DataShape
from dgflow.specs.spec import ActivationPrecision
from dgflow.specs.step import Slice, TrainStep
from dgflow.steps.shapes import data_shape, gives_latents

if TYPE_CHECKING:
    from torch import nn

    from dgflow.specs.bound import Bound
    from dgflow.specs.training_task import TrainingTask


class TrainClassifier(TrainStep):
    """Cross-entropy over the classes of `real`.

    `noise="none"` sees clean images at time 0; with `network.pool="adaptive"` its pooled features and logits
    are what `Features` takes. `noise="linear_vp"` sees images or latents diffused to linear-VP times, and is
    told them as `network.time` says; it may guide, and then it may not judge. `times`: importance-sampled
    (Kim et al. 2023), or uniform, as ADM's classifiers were trained.

    `shift` moves training images by up to that many pixels each way, `flip` mirrors half of them (rows of
    `Encode` hold both flips). With `anneal` the learning rate falls linearly to 0 over that many steps.
    `precision` is that of the network's activations; weights, optimiser and loss are float32.
    """

    schema_version: ClassVar[int] = 2  # batches are drawn by lanes

    real: Slice
    network: ADMEncoder = ADMEncoder(pool="adaptive")
    noise: Literal["none", "linear_vp"] = "none"
    times: Literal["importance", "uniform"] = "importance"
    weight_decay: float = Field(default=0.05, ge=0)
    anneal: int | None = Field(default=None, gt=0)
    shift: int = Field(default=0, ge=0)
    flip: bool = False
    precision: ActivationPrecision = "float32"

    @model_validator(mode="after")
    def _makes_sense(self) -> TrainClassifier:
        training, _ = self.split(self.real.rows, of=self.real.step.title)
        if self.flip and gives_latents(self.real.step):
            raise ValueError(
                "expected images for flip=True, found latents: the rows of Encode hold both flips already; "
                "use flip=False"
            )
        steps = self.epochs * self.steps_per_epoch(training)
        if self.anneal is not None and steps > self.anneal:
            raise ValueError(
                f"expected at most {self.anneal:,} steps, after which the learning rate is 0 (anneal), found "
                f"{steps:,}: {self.epochs} epochs of {self.steps_per_epoch(training):,}; take fewer epochs, "
                "or a larger anneal"
            )
        return self

    def learning_rate_at(self, step: int) -> float:
        """Of a step, counted from 0 over all epochs."""
        return self.learning_rate * (1.0 if self.anneal is None else 1.0 - step / self.anneal)

    @property
    def shape(self) -> DataShape:
        return data_shape(self.real.step)

    def training_task(self, inputs: Bound) -> TrainingTask:
        import torch

        from dgflow.diffusion import noise
        from dgflow.diffusion.acceleration import autocast, device
        from dgflow.diffusion.losses import classifier_loss, perturb
        from dgflow.diffusion.times import importance_tau, sigma_from_tau, uniform_tau
        from dgflow.specs.training_task import TrainingTask
        from dgflow.steps.training.rows import normals
        from dgflow.steps.training.stream import Stream

        place = device()
        data = Stream(
            self,
            inputs,
            "real",
            num_classes=data_shape(self.real.step).num_classes,
            device=place,
            mirror=self.flip,
        )
        torch.manual_seed(self.seed)
        network = self.build(inputs).to(place)
        told, drawn = (self.network.time_map(), importance_tau if self.times == "importance" else uniform_tau)

        def noisy(
            images: torch.Tensor, index: torch.Tensor, level: int, draw: int
        ) -> tuple[torch.Tensor, torch.Tensor]:
            if self.noise == "none":
                return images, torch.zeros(len(images), device=place)
            tau_B = drawn(noise.uniform(self.seed, index, (), step=0, draw=level)).to(place)
            added = normals(self.seed, index, images.shape[1:], draw=draw, device=place)
            return perturb(images, tau_B.float(), added), told(sigma_from_tau(tau_B.double())).float()

        def logits(network: nn.Module, *given: torch.Tensor) -> torch.Tensor:
            with autocast(place, self.precision):
                return network(*given).float()

        def loss(network: nn.Module, slots: torch.Tensor, step: int) -> torch.Tensor:
            index = step * self.batch_size + slots
            images, labels = data.take(step, slots)
            if self.shift:
                down, right = (
                    noise.integers(self.seed, index, 2 * self.shift + 1, step=axis, draw=noise.FLIP)
                    - self.shift
                    for axis in (0, 1)
                )
                images = torch.stack(
                    [
                        image.roll((int(y), int(x)), (1, 2))
                        for image, y, x in zip(images, down, right, strict=True)
                    ]
                )
            return classifier_loss(logits(network, *noisy(images, index, noise.LEVEL, noise.NOISE)), labels)

        def measure(network: nn.Module, items: torch.Tensor) -> dict[str, torch.Tensor]:
            images, labels = data.kept_apart(items)
            found = logits(network, *noisy(images, items, noise.EVALUATION_LEVEL, noise.EVALUATION_NOISE))
            return {"loss": classifier_loss(found, labels), "right": (found.argmax(1) == labels).float()}

        return TrainingTask(
            network=network,
            trained=network,
            optimizer=torch.optim.AdamW(
                network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
            ),
            batch_size=self.batch_size,
            steps_per_epoch=self.steps_per_epoch(data.training),
            loss=loss,
            held_out=data.held,
            measure=measure,
            summarise=lambda values: {
                "held_out_loss": float(values["loss"].double().mean()),
                "held_out_accuracy": float(values["right"].double().mean()),
            },
            data=(data,),
            learning_rate=self.learning_rate_at,
            device=place,
        )


def published_classifier(
    real: Slice,
    network: ADMEncoder,
    *,
    iterations: int = 300_000,
    keep_every: int = 10_000,
    batch_size: int = 256,
    held_out: float = 0.01,
    seed: int = 0,
) -> TrainClassifier:
    """The classifier of noisy images or latents that Discriminator Guidance had to train itself (Kim et al.
    2023, appendix; ADM's recipe).

    AdamW, 3e-4 falling linearly to 0 over `iterations`, weight decay 0.05, batches of 256, flips, bfloat16
    activations, no average of weights, at uniform times. Its weights are kept every `keep_every` iterations.
    ADM's random crops are left out: the images of `real` have the network's size.
    """
    if iterations % keep_every:
        raise ValueError(
            f"expected iterations that keep_every divides, found {iterations:,} and {keep_every:,}"
        )
    return TrainClassifier(
        real=real,
        network=network,
        noise="linear_vp",
        times="uniform",
        epochs=iterations // keep_every,
        images_per_epoch=keep_every * batch_size,
        batch_size=batch_size,
        learning_rate=3e-4,
        weight_decay=0.05,
        anneal=iterations,
        flip=not gives_latents(real.step),
        precision="bfloat16",
        held_out=held_out,
        seed=seed,
    )
