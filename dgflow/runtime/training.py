"""The training loop: one for the score network, the classifier and the discriminator, which differ in their loss alone.

A batch is a pure function of (seed, step): which images, which noise. So the loop keeps no random state, a resumed run draws what an
undisturbed one draws, and every worker computes its own share of the same global batch. After every epoch the weights are committed with
what was measured on the held-out images, then a checkpoint; a run that was killed goes on from the last whole checkpoint, and with the same
number of workers on the CPU ends with the same bits.

Knows torch and the store, not Ray: `dgflow.runtime.train` runs it on many workers, tests run it in the process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dgflow.networks.checkpoints import load_weights, save_weights
from dgflow.runtime.averages import Averages
from dgflow.runtime.environment import attempt, versions
from dgflow.store.receipts import CorruptObject
from dgflow.store.shards import rows_sha256
from dgflow.store.step_store import StepStore

log = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2  # the newest may be torn by a dying disk; the one before it then costs one epoch


class Data(Protocol):
    """What a task draws its batches from: how many seconds it has waited for them so far; `close` ends its threads."""

    waited: float

    def close(self) -> None: ...


@dataclass
class TrainingTask:
    """What a kind of training differs in.

    `loss(network, slots, step)` gives the loss [b] of this worker's `slots` (positions in the global batch of `batch_size`) at `step`,
    counted from 0 over all epochs; `network` is to be called once in it, through its `forward`. `measure(network, items)` gives named
    values [n, ...] of held-out items, in ascending order, which `summarise` turns into the epoch's metrics; it has to give `held_out_loss`.
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


def train(
    task: TrainingTask,
    steps: StepStore,
    inputs: Mapping[str, str],
    *,
    epochs: int,
    rank: int = 0,
    world_size: int = 1,
    wrap: Callable[[nn.Module], nn.Module] | None = None,
) -> None:
    """Train to the end of epoch `epochs`, from the last whole checkpoint if there is one. Rank 0 commits.

    Metrics of an epoch: `train_loss`, `data_wait` (the share of the training time that went by waiting for data, of the worker that waited
    longest), `workers`, and what `task.summarise` gives.

    Raises:
        FloatingPointError: the loss is not finite; names the epoch and the step. What was committed before stands.
        ValueError: the batch does not divide among the workers.
    """
    if task.batch_size % world_size:
        raise ValueError(
            f"expected a batch size that {world_size} training workers can share, found {task.batch_size}; "
            "change --train-workers or the batch size"
        )
    try:
        _train(task, steps, inputs, epochs, rank, world_size, wrap)
    finally:
        for data in task.data:
            data.close()


def _train(
    task: TrainingTask,
    steps: StepStore,
    inputs: Mapping[str, str],
    epochs: int,
    rank: int,
    world_size: int,
    wrap: Callable[[nn.Module], nn.Module] | None,
) -> None:
    averages = Averages(task.trained, task.ema_halflife)
    done = _resume(task, averages, steps, inputs, rank, world_size)
    network = wrap(task.network) if wrap else task.network
    share = task.batch_size // world_size
    slots = torch.arange(rank * share, (rank + 1) * share)
    for epoch in range(done + 1, epochs + 1):
        began, waited = time.monotonic(), _waited(task)
        if rank == 0:
            steps.note_attempt("epochs", epoch, attempt())
        network.train()
        total = torch.zeros((), dtype=torch.float64)
        for step in range((epoch - 1) * task.steps_per_epoch, epoch * task.steps_per_epoch):
            torch.manual_seed(step * world_size + rank)  # dropout alone draws from it
            loss = task.loss(network, slots, step).mean()
            task.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if task.learning_rate is not None:
                for group in task.optimizer.param_groups:
                    group["lr"] = task.learning_rate(step)
            task.optimizer.step()
            averages.update((step + 1) * task.batch_size, task.batch_size)
            total += loss.detach().double().cpu()
        data_wait = (_waited(task) - waited) / (time.monotonic() - began)
        train_loss = _of_workers(float(total / task.steps_per_epoch), world_size).mean()
        if not torch.isfinite(train_loss):
            raise FloatingPointError(
                f"expected a finite training loss, found {float(train_loss)} in epoch {epoch} of {steps.name}; lower the learning rate. "
                f"The epochs before it are committed and stay usable: take .epoch(n) with n < {epoch}, or set epochs below it"
            )
        data_wait = round(float(_of_workers(data_wait, world_size).max()), 4)
        metrics = {"train_loss": float(train_loss), "data_wait": data_wait, "workers": world_size}
        with averages.applied():
            metrics |= _held_out(task, rank, world_size)
            weights = {name: value.detach().cpu().clone() for name, value in task.trained.state_dict().items()}
        if rank == 0:
            _commit(steps, "epochs", epoch, weights, inputs, time.monotonic() - began, metrics, task.device)
            _commit(steps, "checkpoints", epoch, _state(task, averages), inputs, 0.0, {"workers": world_size}, task.device)
            _forget(steps, inputs)


def _waited(task: TrainingTask) -> float:
    return sum(data.waited for data in task.data)


def _held_out(task: TrainingTask, rank: int, world_size: int) -> dict[str, Any]:
    """Metrics of the held-out items, each worker measuring every `world_size`-th of them."""
    if not task.held_out:
        return {}
    task.network.eval()
    items = torch.arange(rank, task.held_out, world_size)
    with torch.no_grad():
        parts = [task.measure(task.network, chunk) for chunk in items.split(256)]
    own = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    if world_size > 1:
        gathered: list[Any] = [None] * world_size
        dist.all_gather_object(gathered, (items, own))
        order = torch.cat([part[0] for part in gathered]).argsort()
        own = {name: torch.cat([part[1][name] for part in gathered])[order] for name in own}
    return task.summarise(own)


def _of_workers(value: float, world_size: int) -> Tensor:
    """The value of every worker, float64 [world_size]."""
    parts: list[Any] = [value]
    if world_size > 1:
        parts = [None] * world_size
        dist.all_gather_object(parts, value)
    return torch.tensor(parts, dtype=torch.float64)


def _commit(
    steps: StepStore,
    folder: str,
    epoch: int,
    tensors: dict[str, Tensor],
    inputs: Mapping[str, str],
    seconds: float,
    metrics: dict[str, Any],
    device: torch.device,
) -> None:
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


def _state(task: TrainingTask, averages: Averages) -> dict[str, Tensor]:
    """Everything that the next step depends on, as flat named tensors."""
    tensors = {f"trained.{name}": value for name, value in task.trained.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in averages.values.items()}
    for number, slots in task.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in slots.items()}
    return {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}


def _restore(task: TrainingTask, averages: Averages, tensors: dict[str, Tensor]) -> None:
    task.trained.load_state_dict({name.removeprefix("trained."): value for name, value in tensors.items() if name.startswith("trained.")})
    for name, value in averages.values.items():
        value.copy_(tensors[f"ema.{name}"])
    state = task.optimizer.state_dict()
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, slot = name.split(".", 2)
            slots.setdefault(int(number), {})[slot] = value
    task.optimizer.load_state_dict(state | {"state": slots})


def _resume(task: TrainingTask, averages: Averages, steps: StepStore, inputs: Mapping[str, str], rank: int, world_size: int) -> int:
    """Load the newest whole checkpoint; the number of epochs that it has behind it, 0 without one. Rank 0 chooses for all."""
    chosen = 0
    tensors: dict[str, Tensor] | None = None
    if rank == 0:
        done = steps.done("checkpoints", inputs)
        usable = unbroken(steps.done("epochs", inputs))  # after a repair an epoch in the middle can be missing: it is trained again
        for epoch in sorted((epoch for epoch in done if epoch <= usable), reverse=True):
            try:
                tensors = load_weights(steps.read(steps.receipt(done[epoch])))
            except (CorruptObject, FileNotFoundError) as error:
                log.warning("checkpoint of epoch %d cannot be used, trying the one before: %s", epoch, error)
                continue
            chosen = epoch
            break
    if world_size > 1:
        shared: list[Any] = [chosen, tensors]
        dist.broadcast_object_list(shared, src=0)
        chosen, tensors = shared
    if tensors is not None:
        _restore(task, averages, tensors)
    return chosen


def unbroken(epochs: Collection[int]) -> int:
    """How many epochs, from the first, there are without a gap."""
    return next(number for number in count() if number + 1 not in epochs)


def _forget(steps: StepStore, inputs: Mapping[str, str]) -> None:
    """Checkpoints are scratch: only the newest few are kept."""
    done = steps.done("checkpoints", inputs)
    for epoch in sorted(done)[:-KEPT_CHECKPOINTS]:
        steps.discard(done[epoch])
