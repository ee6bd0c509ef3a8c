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


@dataclass
class TrainingTask:
    """One training.

    `loss(network, slots, step)` gives the loss [b] of this worker's `slots` (positions in the global batch of
    `batch_size`) at `step`, counted from 0 over all epochs; it calls `network` once, through `forward`.
    `measure(network, items)` gives named values [n, ...] of held-out items, in ascending order;
    `summarise` turns them into the epoch's metrics, with `held_out_loss` among them.
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
    data: Sequence[Data] = ()
    learning_rate: Callable[[int], float] | None = None  # of a step; None: the optimizer's own
    ema_halflife: int | None = None  # in images; None: the weights themselves are kept
    device: torch.device = torch.device("cpu")
    precision: ActivationPrecision = "float32"  # of activations
