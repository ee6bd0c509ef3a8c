"""Stops a training whose loss or weights are no longer finite, before that epoch is committed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dgflow.specs.training_task import TrainingTask


@dataclass(frozen=True)
class Finite:
    """Checks of one epoch. All workers raise at the same step.

    The methods raise FloatingPointError, which names the epoch, the step and the learning rate.
    """

    task: TrainingTask
    name: str  # name of the training step
    epoch: int

    def check(self, total: Tensor, bad: bool, step: int) -> None:
        """Raises if `bad`: the sum of the losses of an epoch's first `step` steps is not finite on some
        worker.
        `total` is the sum of this worker."""
        if bad:
            found = "NaN or infinity of another worker" if total.isfinite() else float(total)
            untrained = self.epoch == 1 and step == 1
            raise self._error("training loss", found, f", step {step} of {self._steps},", untrained)

    def weights(self, metrics: Mapping[str, Any]) -> None:
        """Raises if a weight to be committed, or a held-out measurement, is not finite."""
        for name, value in self.task.trained.state_dict().items():
            if value.is_floating_point() and not value.isfinite().all():
                raise self._error(
                    "value of every weight", f"NaN or infinity in {name}", " after its last step"
                )
        for name, value in metrics.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise self._error(name.replace("held_out_", "held-out "), value, " after its last step")

    @property
    def _steps(self) -> int:
        return self.task.steps_per_epoch

    def _error(self, what: str, found: object, where: str, untrained: bool = False) -> FloatingPointError:
        rate = self.task.optimizer.param_groups[0]["lr"]
        remedy = f"lower the learning rate, for example to {rate / 10:g}"
        if self.task.precision != "float32":
            remedy += ', or use precision="float32"'
        if untrained:
            remedy = "no step had changed the weights yet: check the data and the initial weights"
        kept = "No epoch is committed yet"
        if self.epoch > 1:
            kept = (
                "Earlier epochs are committed and can be used: select one with .epoch(n), n < "
                f"{self.epoch}, or set epochs to fewer than {self.epoch}"
            )
        return FloatingPointError(
            f"expected a finite {what}, found {found} in epoch {self.epoch}{where} of {self.name} at "
            f"learning rate {rate:.3g}; {remedy}. {kept}"
        )
