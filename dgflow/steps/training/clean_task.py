"""The training of a discriminator on clean samples, at noise level 0 only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dgflow.diffusion.acceleration import autocast
from dgflow.diffusion.losses import DiscriminatorLoss, discriminator_loss
from dgflow.diffusion.times import TimeMap
from dgflow.specs.spec import ActivationPrecision
from dgflow.steps.training.discriminator_data import LabelledRows, RealAndFake
from dgflow.steps.training.discriminator_metrics import summarise_clean


@dataclass(frozen=True)
class CleanTask:
    """Loss and held-out measurements of a discriminator of clean samples, for a `TrainingTask`."""

    data: RealAndFake
    kind: DiscriminatorLoss
    time_map: TimeMap
    conditional: bool
    precision: ActivationPrecision
    device: torch.device

    def logits(self, network: nn.Module, rows: LabelledRows) -> Tensor:
        """Returns logits, float32 [b], at the time of noise level 0."""
        sigma_B = torch.zeros(len(rows.images), dtype=torch.float64, device=self.device)
        labels = rows.labels if self.conditional else None
        with autocast(self.device, self.precision):
            return network(rows.images, self.time_map(sigma_B).float(), labels).float()

    def loss(self, network: nn.Module, slots: Tensor, step: int) -> Tensor:
        """See `TrainingTask.loss`."""
        rows = self.data.batch(slots, step)
        return discriminator_loss(self.logits(network, rows), rows.is_real.to(self.device), self.kind)

    def measure(self, network: nn.Module, items: Tensor) -> dict[str, Tensor]:
        """Measures held-out items, see `Measurement.measure`: logit, loss and kind of each item, and its
        cross-entropy `bce` if the loss is another one."""
        rows = self.data.held_out(items, levels=1)
        logit_B, is_real = self.logits(network, rows), rows.is_real.to(self.device)
        values = {"logit": logit_B, "loss": discriminator_loss(logit_B, is_real, self.kind)}
        if self.kind != "bce":
            values["bce"] = discriminator_loss(logit_B, is_real)
        return {name: value.double() for name, value in values.items()} | {"is_real": rows.is_real}

    def summarise(self, values: dict[str, Tensor]) -> dict[str, Any]:
        """See `Measurement.summarise`."""
        return summarise_clean(values)
