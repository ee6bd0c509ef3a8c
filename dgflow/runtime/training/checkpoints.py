"""The state that a training keeps in the root: weights of every epoch, and checkpoints to go on from.

A checkpoint whose bytes are not those of its receipt is never used. Keeping a few costs a few requests per
epoch and no listing.
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
    step_store: StepStore,
    folder: str,
    epoch: int,
    tensors: dict[str, Tensor],
    inputs: Mapping[str, str],
    seconds: float,
    metrics: dict[str, Any],
    device: torch.device,
) -> None:
    """Commit the tensors of an epoch, as `StepStore.commit`."""
    step_store.commit(
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
    own = {name.removeprefix("trained."): tensors[name] for name in tensors if name.startswith("trained.")}
    trained.load_state_dict(own)
    for name, value in averages.values.items():
        value.copy_(tensors[f"ema.{name}"])
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, slot = name.split(".", 2)
            slots.setdefault(int(number), {})[slot] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": slots})


def newest_whole(
    step_store: StepStore, inputs: Mapping[str, str], epochs: int, kept: int
) -> tuple[int, dict[str, Tensor] | None]:
    """The newest checkpoint that can be read, as its epoch, `epochs` at most, and its tensors; else (0,
    None).

    `epochs` are those that are committed without a gap: one in the middle that a repair left out is trained
    again. The keys of the newest `kept` are tried first; the others are listed only where none of those is
    whole. Those that cannot be read are removed, so that the epoch's next one can take their place.
    """
    likely = range(epochs, max(0, epochs - kept), -1)
    for epoch in likely:
        if (tensors := _read(step_store, step_store.key("checkpoints", epoch, inputs), epoch)) is not None:
            return epoch, tensors
    older = {} if epochs <= kept else step_store.done("checkpoints", inputs)
    for epoch in sorted((epoch for epoch in older if epoch <= epochs - kept), reverse=True):
        if (tensors := _read(step_store, older[epoch], epoch)) is not None:
            return epoch, tensors
    if epochs:
        log.warning(
            "%s: %d epochs are committed, but no checkpoint is left to go on from; training begins anew",
            step_store.name,
            epochs,
        )
    return 0, None


def _read(step_store: StepStore, key: str, epoch: int) -> dict[str, Tensor] | None:
    try:
        receipt = step_store.receipt(key)
    except FileNotFoundError:
        return None
    except CorruptObject as error:
        return _passed_over(step_store, key, epoch, error)
    try:
        return load_weights(step_store.read(receipt))
    except (CorruptObject, FileNotFoundError) as error:
        return _passed_over(step_store, key, epoch, error)


def _passed_over(step_store: StepStore, key: str, epoch: int, error: Exception) -> None:
    log.warning("checkpoint of epoch %d cannot be used, trying the one before: %s", epoch, error)
    step_store.discard(key)


def forget(step_store: StepStore, inputs: Mapping[str, str], epoch: int, kept: int) -> None:
    """Remove the checkpoint that is `kept` older than that of `epoch`: they are scratch."""
    if epoch > kept:
        step_store.discard(step_store.key("checkpoints", epoch - kept, inputs))


def unbroken(epochs: Collection[int]) -> int:
    """The number of epochs, from the first, without a gap."""
    return next(number for number in count() if number + 1 not in epochs)
