"""What a training keeps in the root: every epoch's weights, and checkpoints of all that the next step depends
on.

Promises that a checkpoint whose bytes are not those of its receipt is never gone on from, and that keeping a
few costs a few requests an epoch and no listing. When to save is left to the training loop.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from dgflow.runtime.environment import versions
from dgflow.runtime.training.averages import Averages
from dgflow.store.receipts import CorruptObject
from dgflow.store.shards import rows_sha256
from dgflow.store.step_store import StepStore
from dgflow.weights.tensors import load_weights, save_weights

log = logging.getLogger(__name__)


def commit(
    steps: StepStore,
    folder: str,
    epoch: int,
    tensors: dict[str, Tensor],
    inputs: Mapping[str, str],
    seconds: float,
    metrics: dict[str, Any],
    device: torch.device,
) -> None:
    """The tensors of an epoch, with a receipt. As `StepStore.commit`."""
    steps.commit(
        folder,
        epoch,
        save_weights(tensors),
        suffix=".safetensors",
        rows_sha256=rows_sha256({name: value.numpy() for name, value in tensors.items()}),
        inputs=inputs,
        seconds=seconds,
        device=str(device),
        versions=versions(),
        metrics=metrics,
    )


def state(trained: nn.Module, optimizer: torch.optim.Optimizer, averages: Averages) -> dict[str, Tensor]:
    """Everything that the next step depends on, as flat named tensors."""
    tensors = {f"trained.{name}": value for name, value in trained.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in averages.values.items()}
    for number, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in slots.items()}
    return {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}


def restore(
    trained: nn.Module, optimizer: torch.optim.Optimizer, averages: Averages, tensors: dict[str, Tensor]
) -> None:
    """Put back what `state` gave."""
    trained.load_state_dict(
        {
            name.removeprefix("trained."): value
            for name, value in tensors.items()
            if name.startswith("trained.")
        }
    )
    for name, value in averages.values.items():
        value.copy_(tensors[f"ema.{name}"])
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, slot = name.split(".", 2)
            slots.setdefault(int(number), {})[slot] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": slots})


def newest_whole(
    steps: StepStore, inputs: Mapping[str, str], epochs: int, kept: int
) -> tuple[int, dict[str, Tensor] | None]:
    """The newest checkpoint that can be read, and the epochs behind it, `epochs` at most: those that are
    committed without a gap.

    After a repair an epoch in the middle can be missing: it is trained again. (0, None) where there is no
        checkpoint. Of the newest `kept`
    the keys are tried; only where none of those is whole, the others are listed.
    """
    likely = range(epochs, max(0, epochs - kept), -1)
    for epoch in likely:
        if (tensors := _read(steps, steps.key("checkpoints", epoch, inputs), epoch)) is not None:
            return epoch, tensors
    older = {} if epochs <= kept else steps.done("checkpoints", inputs)
    for epoch in sorted((epoch for epoch in older if epoch <= epochs - kept), reverse=True):
        if (tensors := _read(steps, older[epoch], epoch)) is not None:
            return epoch, tensors
    if epochs:
        log.warning(
            "%s: %d epochs are committed, but no checkpoint is left to go on from; training begins anew",
            steps.name,
            epochs,
        )
    return 0, None


def _read(steps: StepStore, key: str, epoch: int) -> dict[str, Tensor] | None:
    try:
        receipt = steps.receipt(key)
    except FileNotFoundError:
        return None
    except CorruptObject as error:
        return _passed_over(epoch, error)
    try:
        return load_weights(steps.read(receipt))
    except (CorruptObject, FileNotFoundError) as error:
        return _passed_over(epoch, error)


def _passed_over(epoch: int, error: Exception) -> None:
    log.warning("checkpoint of epoch %d cannot be used, trying the one before: %s", epoch, error)


def forget(steps: StepStore, inputs: Mapping[str, str], epoch: int, kept: int) -> None:
    """Checkpoints are scratch: with that of `epoch`, the one that is now the oldest but `kept` goes."""
    if epoch > kept:
        steps.discard(steps.key("checkpoints", epoch - kept, inputs))


def unbroken(epochs: Collection[int]) -> int:
    """How many epochs, from the first, there are without a gap."""
    return next(number for number in count() if number + 1 not in epochs)
