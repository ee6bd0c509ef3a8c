"""The training of a discriminator: logits of rows with noise, their loss, and held-out measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dgflow.diffusion.acceleration import autocast
from dgflow.diffusion.losses import DiscriminatorLoss, discriminator_loss, perturb
from dgflow.diffusion.times import TimeMap, log_uniform_sigma, tau_from_sigma
from dgflow.specs.spec import ActivationPrecision
from dgflow.steps.training.discriminator_data import LabelledRows, RealAndFake
from dgflow.steps.training.discriminator_metrics import summarise
from dgflow.steps.training.draws import Draws
from dgflow.steps.training.gradient_matching import GradientMatching


@dataclass(frozen=True)
class LogRatioTask:
    """Loss and held-out measurements of a discriminator, for a `TrainingTask`.

    Noise levels are log-uniform: in training on `drawn_range`, for held-out items on `measured_range`,
    divided into `levels` equal parts of log sigma. With `matching`, gradients have a loss too.
    """

    data: RealAndFake
    kind: DiscriminatorLoss
    time_map: TimeMap
    seed: int
    levels: int
    drawn_range: tuple[float, float]
    measured_range: tuple[float, float]
    conditional: bool
    precision: ActivationPrecision
    device: torch.device
    matching: GradientMatching | None = None

    def losses(
        self, network: nn.Module, rows: LabelledRows, sigma_B: Tensor, index: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """Returns per row, with the noise that `index` draws at `sigma_B` (float64, on the CPU), [b] each:
        the `logit` (float32), the `loss`, and its parts `bce` and `gradient` if it has two."""
        matching = self.matching
        if matching is not None:
            sigma_B = matching.rounded(sigma_B)
        tau_B = tau_from_sigma(sigma_B).float().to(self.device)
        normals = draws.normals(index, rows.images)
        noisy = perturb(rows.images, tau_B, normals)
        own_sigma_B = sigma_B.to(self.device)
        time_B = self.time_map(own_sigma_B).float()

        def logits(noisy: Tensor) -> Tensor:
            with autocast(self.device, self.precision):
                return network(noisy, time_B, rows.labels if self.conditional else None).float()

        is_real = rows.is_real.to(self.device)
        if matching is None:
            logit_B = logits(noisy)
            return {"logit": logit_B, "loss": discriminator_loss(logit_B, is_real, self.kind)}
        logit_B, gradient_B = matching.logits_and_loss(logits, noisy, rows, own_sigma_B, normals)
        bce_B = discriminator_loss(logit_B, is_real, self.kind)
        # Only real rows (every second one) have a loss of the gradient, and the mean is over all rows.
        loss_B = bce_B + 2.0 * matching.weight * gradient_B
        return {"logit": logit_B, "loss": loss_B, "bce": bce_B, "gradient": gradient_B}

    def loss(self, network: nn.Module, slots: Tensor, step: int) -> Tensor:
        """See `TrainingTask.loss`."""
        index, draws = self.data.index(slots, step), Draws.training(self.seed)
        rows = self.data.batch(slots, step)
        sigma_B = log_uniform_sigma(draws.uniform(index), *self.drawn_range)
        return self.losses(network, rows, sigma_B, index, draws)["loss"]

    def measure(self, network: nn.Module, items: Tensor) -> dict[str, Tensor]:
        """Measures held-out items, see `Measurement.measure`: the values of `losses`, noise level and kind of
        each item, and its cross-entropy `bce` if the loss is another one."""
        # A real item is followed by a fake one at the same level, so that no bin has more of one kind.
        pair, draws = items // 2, Draws.held_out(self.seed)
        rows = self.data.held_out(items, self.levels)
        quantile_B = (pair % self.levels + draws.uniform(pair)) / self.levels
        sigma_B = log_uniform_sigma(quantile_B, *self.measured_range)
        values = self.losses(network, rows, sigma_B, items, draws)
        if self.kind != "bce":
            values["bce"] = discriminator_loss(values["logit"], rows.is_real.to(self.device))
        return {name: value.double() for name, value in values.items()} | {
            "sigma": sigma_B.double(),
            "is_real": rows.is_real,
        }

    def summarise(self, values: dict[str, Tensor]) -> dict[str, Any]:
        """See `Measurement.summarise`."""
        return summarise(values, *self.measured_range)
