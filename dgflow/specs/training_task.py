"""The interface between a kind of training and the training loop.

This module imports torch and is imported only where a training runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dgflow.specs.spec import ActivationPrecision


class Data(Protocol):
    """The source of a task's batches. `waited` is the number of seconds spent waiting so far; `close` ends
    the threads of the source."""

    waited: float

    def close(self) -> None: ...


@dataclass(frozen=True)
class Measurement:
    """Held-out measurements of one kind after every epoch.

    `measure(network, items)` returns named values [n, ...] of items from `range(items)`, in ascending order;
    `summarise` turns the values of all items into metrics. Both run in evaluation mode, without gradients.
    """

    items: int
    measure: Callable[[nn.Module, Tensor], dict[str, Tensor]]
    summarise: Callable[[dict[str, Tensor]], dict[str, Any]]


@dataclass
class TrainingTask:
    """One training.

    `loss(network, slots, step)` returns the loss [b] of this worker's `slots` (positions in the global batch
    of `batch_size`) at `step`, counted from 0 over all epochs; it calls `network` once, through `forward`.
    `held_out`, `measure` and `summarise` form a `Measurement` whose metrics include `held_out_loss`; the
    metrics of the `further` measurements are added.
    """

    network: nn.Module
    trained: nn.Module  # the trained part of `network`, whose weights are stored
    optimizer: torch.optim.Optimizer
    batch_size: int
    steps_per_epoch: int
    loss: Callable[[nn.Module, Tensor, int], Tensor]
    held_out: int  # number of held-out items
    measure: Callable[[nn.Module, Tensor], dict[str, Tensor]]
    summarise: Callable[[dict[str, Tensor]], dict[str, Any]]
    further: Sequence[Measurement] = ()
    data: Sequence[Data] = ()
    learning_rate: Callable[[int], float] | None = None  # learning rate by step; None: the optimiser's own
    ema_halflife: int | None = None  # half-life of the EMA in images; None: no EMA
    ema_ramp_up: bool = True  # False: the full half-life from the first step on, for trained initial weights
    device: torch.device = torch.device("cpu")
    precision: ActivationPrecision = "float32"  # precision of activations

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """The held-out measurements with items, the one with the loss first."""
        first = Measurement(self.held_out, self.measure, self.summarise)
        return tuple(each for each in (first, *self.further) if each.items)
