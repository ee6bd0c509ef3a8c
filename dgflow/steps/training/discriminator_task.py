"""The training of a discriminator: logits of rows with noise, their loss, and held-out measurements."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dgflow.diffusion.acceleration import autocast
from dgflow.diffusion.losses import DiscriminatorLoss, discriminator_loss, perturb
from dgflow.diffusion.times import TimeMap, log_uniform_sigma, tau_from_sigma
from dgflow.specs.spec import ActivationPrecision
from dgflow.steps.training.discriminator_data import LabelledRows, RealAndFake
from dgflow.steps.training.draws import Draws


@dataclass(frozen=True)
class LogRatioTask:
    """Loss and held-out measurements of a discriminator, for a `TrainingTask`.

    Noise levels are log-uniform: in training on `drawn_range`, of held-out items on `measured_range`, cut
    into `levels` equal parts of log sigma.
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

    def logits(
        self, network: nn.Module, rows: LabelledRows, sigma_B: Tensor, index: Tensor, draws: Draws
    ) -> Tensor:
        """float32 [b], of the rows with the noise that `index` draws at `sigma_B` (float64, on the CPU)."""
        tau_B = tau_from_sigma(sigma_B).float().to(self.device)
        noisy = perturb(rows.images, tau_B, draws.normals(index, rows.images))
        time_B = self.time_map(sigma_B.to(self.device)).float()
        with autocast(self.device, self.precision):
            return network(noisy, time_B, rows.labels if self.conditional else None).float()

    def loss(self, network: nn.Module, slots: Tensor, step: int) -> Tensor:
        """See `TrainingTask.loss`."""
        index, draws = self.data.index(slots, step), Draws.training(self.seed)
        rows = self.data.batch(slots, step)
        sigma_B = log_uniform_sigma(draws.uniform(index), *self.drawn_range)
        values = self.logits(network, rows, sigma_B, index, draws)
        return discriminator_loss(values, rows.is_real.to(self.device), self.kind)

    def measure(self, network: nn.Module, items: Tensor) -> dict[str, Tensor]:
        """See `Measurement.measure`: logit, loss, noise level and kind of each item, and its cross-entropy
        `bce` where that is not the loss."""
        # Real and fake items follow each other with the same level, so that no bin has more of one than of
        # the other.
        pair, draws = items // 2, Draws.held_out(self.seed)
        rows = self.data.held_out(items, self.levels)
        quantile_B = (pair % self.levels + draws.uniform(pair)) / self.levels
        sigma_B = log_uniform_sigma(quantile_B, *self.measured_range)
        logit_B, is_real = self.logits(network, rows, sigma_B, items, draws), rows.is_real.to(self.device)
        kinds: dict[str, DiscriminatorLoss] = {"loss": self.kind}
        if self.kind != "bce":
            kinds["bce"] = "bce"
        return {
            "logit": logit_B.double(),
            **{name: discriminator_loss(logit_B, is_real, kind).double() for name, kind in kinds.items()},
            "sigma": sigma_B.double(),
            "is_real": rows.is_real,
        }
