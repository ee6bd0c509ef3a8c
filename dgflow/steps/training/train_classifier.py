"""TrainClassifier: ADM's encoder as a classifier, of clean images (a metric's feature network) or of noisy
ones (a discriminator's features)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dgflow.networks.adm.spec import ADMEncoder
from dgflow.specs.spec import ActivationPrecision
from dgflow.specs.step import Best, Slice
from dgflow.specs.train_step import TrainStep

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dgflow.specs.bound import Bound
    from dgflow.specs.training_task import TrainingTask


class TrainClassifier(TrainStep):
    """Training of a classifier by cross-entropy over the classes of `real`.

    `noise="none"` trains on clean images at time 0; with `network.pool="adaptive"` the result is a network
    for `Features`. `noise="linear_vp"` trains on images or latents diffused to linear-VP times, given as
    `network.time`; such a classifier may guide; a network that guides may not judge. `times`:
    importance-sampled (Kim et al. 2023), or uniform, as for ADM's classifiers.

    `shift` moves training images by up to that many pixels in each direction, `flip` mirrors half of them
    (rows of `Encode` hold both flips). With `anneal` the learning rate falls linearly to 0 over that many
    steps. `precision` applies to the network's activations; weights, optimiser and loss are float32.
    """

    schema_version: ClassVar[int] = 2  # batches are drawn by lanes
    held_out_metrics: ClassVar[Mapping[str, Best]] = {"held_out_loss": "lowest"}

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
        steps = self.epochs * self.steps_per_epoch
        if self.shape.num_classes:
            self.real.check_labelled("real", "the classifier", "take images with labels")
        if self.flip and self.sees_latents:
            raise ValueError(
                "expected images for flip=True, found latents: the rows of Encode hold both flips already; "
                "use flip=False"
            )
        if self.anneal is not None and steps > self.anneal:
            raise ValueError(
                f"expected at most {self.anneal:,} steps, after which the learning rate is 0 (anneal), found "
                f"{steps:,}: {self.epochs} epochs of {self.steps_per_epoch:,}; take fewer epochs, "
                "or a larger anneal"
            )
        return self

    def learning_rate_at(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0 over all epochs."""
        return self.learning_rate * (1.0 if self.anneal is None else 1.0 - step / self.anneal)

    def _toy_fields(self) -> dict[str, Any]:
        fields = super()._toy_fields()
        if self.anneal is not None:
            images = fields["images_per_epoch"] or 2 * 32
            fields["anneal"] = 2 * images // fields["batch_size"]
        return fields

    @property
    def activations(self) -> ActivationPrecision:
        return self.precision

    @property
    def knows_noise(self) -> bool:
        return self.noise != "none"

    @property
    def judges_images(self) -> bool:
        return self.noise == "none" and self.network.pool == "adaptive"

    def training_task(self, inputs: Bound) -> TrainingTask:
        import torch

        from dgflow.diffusion.acceleration import autocast, device
        from dgflow.diffusion.losses import classifier_loss, perturb
        from dgflow.diffusion.times import importance_tau, sigma_from_tau, uniform_tau
        from dgflow.specs.training_task import TrainingTask
        from dgflow.steps.training.draws import Draws, fresh_network
        from dgflow.steps.training.stream import Stream

        own_device = device()
        classes = self.shape.num_classes
        data = Stream(self, inputs, "real", num_classes=classes, device=own_device, mirror=self.flip)
        network = fresh_network(self, inputs, own_device)
        time_of = self.network.time_map()
        drawn_tau = importance_tau if self.times == "importance" else uniform_tau

        def logits(network: nn.Module, images: Tensor, index: Tensor, draws: Draws) -> Tensor:
            time_B = torch.zeros(len(images), device=own_device)
            if self.noise != "none":
                tau_B = drawn_tau(draws.uniform(index)).to(own_device)
                images = perturb(images, tau_B.float(), draws.normals(index, images))
                time_B = time_of(sigma_from_tau(tau_B.double())).float()
            with autocast(own_device, self.precision):
                return network(images, time_B).float()

        def loss(network: nn.Module, slots: Tensor, step: int) -> Tensor:
            index = step * self.batch_size + slots
            images, labels = data.take(step, slots)
            if self.shift:
                images = _shifted(images, self.shift, self.seed, index)
            return classifier_loss(logits(network, images, index, Draws.training(self.seed)), labels)

        def measure(network: nn.Module, items: Tensor) -> dict[str, Tensor]:
            images, labels = data.held_out_rows(items)
            values = logits(network, images, items, Draws.held_out(self.seed))
            return {"loss": classifier_loss(values, labels), "right": (values.argmax(1) == labels).float()}

        return TrainingTask(
            network=network,
            trained=network,
            optimizer=torch.optim.AdamW(
                network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
            ),
            batch_size=self.batch_size,
            steps_per_epoch=self.steps_per_epoch,
            loss=loss,
            held_out=self.held_out_items,
            measure=measure,
            summarise=lambda values: {
                "held_out_loss": float(values["loss"].double().mean()),
                "held_out_accuracy": float(values["right"].double().mean()),
            },
            data=(data,),
            learning_rate=self.learning_rate_at,
            device=own_device,
            precision=self.activations,
        )


def _shifted(images_BCHW: Tensor, most: int, seed: int, index_B: Tensor) -> Tensor:
    """Returns the images, each rolled by up to `most` pixels in each direction."""
    import torch

    from dgflow.diffusion import noise

    down_B, right_B = (
        noise.integers(seed, index_B, 2 * most + 1, step=axis, draw=noise.FLIP) - most for axis in (0, 1)
    )
    rolled = (
        image.roll((int(down), int(right)), (1, 2))
        for image, down, right in zip(images_BCHW, down_B, right_B, strict=True)
    )
    return torch.stack(list(rolled))


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
    """Returns the training of the classifier of noisy images or latents of Kim et al. 2023 (appendix; ADM's
    recipe).

    AdamW, 3e-4 falling linearly to 0 over `iterations`, weight decay 0.05, batches of 256, flips, bfloat16
    activations, no average of weights, at uniform times. Its weights are stored every `keep_every`
    iterations. ADM's random crops are left out: the images of `real` have the network's size.
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
        flip=not real.step.gives_latents,
        precision="bfloat16",
        held_out=held_out,
        seed=seed,
    )
