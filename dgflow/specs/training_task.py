"""The differences between kinds of training, as the training loop takes them.

Imports torch, and is imported only where a training runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dgflow.specs.spec import ActivationPrecision


class Data(Protocol):
    """The source of a task's batches: the seconds it has waited for them so far; `close` ends its threads."""

    waited: float

    def close(self) -> None: ...


@dataclass(frozen=True)
class Measurement:
    """Held-out measurements of one kind after every epoch.

    `measure(network, items)` gives named values [n, ...] of items out of `range(items)`, in ascending order;
    `summarise` turns those of all items into metrics. Both run in evaluation mode, without gradients.
    """

    items: int
    measure: Callable[[nn.Module, Tensor], dict[str, Tensor]]
    summarise: Callable[[dict[str, Tensor]], dict[str, Any]]


@dataclass
class TrainingTask:
    """One training.

    `loss(network, slots, step)` gives the loss [b] of this worker's `slots` (positions in the global batch of
    `batch_size`) at `step`, counted from 0 over all epochs; it calls `network` once, through `forward`.
    `held_out`, `measure` and `summarise` are those of a `Measurement` that has `held_out_loss` among its
    metrics; those of `further` measurements are added to them.
    """

    network: nn.Module
    trained: nn.Module  # the part of `network` that learns and whose weights are kept
    optimizer: torch.optim.Optimizer
    batch_size: int
    steps_per_epoch: int
    loss: Callable[[nn.Module, Tensor, int], Tensor]
    held_out: int  # how many held-out items there are
    measure: Callable[[nn.Module, Tensor], dict[str, Tensor]]
    summarise: Callable[[dict[str, Tensor]], dict[str, Any]]
    further: Sequence[Measurement] = ()
    data: Sequence[Data] = ()
    learning_rate: Callable[[int], float] | None = None  # of a step; None: the optimizer's own
    ema_halflife: int | None = None  # in images; None: the weights themselves are kept
    ema_ramp_up: bool = True  # False: the average begins with weights that are worth keeping
    device: torch.device = torch.device("cpu")
    precision: ActivationPrecision = "float32"  # of activations

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """All held-out measurements that have items, the one with the loss first."""
        first = Measurement(self.held_out, self.measure, self.summarise)
        return tuple(each for each in (first, *self.further) if each.items)
