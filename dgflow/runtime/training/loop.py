"""The training loop of one worker, for the score network, the classifier and the discriminator alike.

A batch is a pure function of (seed, step): which images, which noise. So the loop keeps no random state, a
resumed run draws what an undisturbed one draws, and every worker computes its share of the same global batch.
After every epoch the weights are committed with metrics of the held-out images, then a checkpoint. A run that
was killed goes on from the last whole checkpoint, and with the same number of workers on the CPU ends with
the same bits. With another number, which may change from epoch to epoch, each batch and its gradient are the
same except for rounding (and dropout, where a network has it).

The loop knows torch and the store, not Ray: `fit` runs it on many workers, tests in their own process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dgflow.diffusion.bfloat16 import slow_bfloat16
from dgflow.diffusion.device_errors import is_out_of_memory
from dgflow.diffusion.rounded_products import lacks_kernels
from dgflow.runtime.environment import attempt, failed
from dgflow.runtime.training.averages import Averages
from dgflow.runtime.training.checkpoints import commit, forget, newest_whole, restore, state, unbroken
from dgflow.runtime.training.finiteness import Finite
from dgflow.runtime.training.micro_batches import MicroBatches
from dgflow.runtime.training.notes import EpochNotes
from dgflow.specs.training_task import Measurement, TrainingTask
from dgflow.store.step_store import StepStore

KEPT_CHECKPOINTS = 2  # the newest may be torn by a dying disk; the one before it then costs one epoch


def train(
    task: TrainingTask,
    step_store: StepStore,
    inputs: Mapping[str, str],
    *,
    epochs: int,
    rank: int = 0,
    world_size: int = 1,
    wrap: Callable[[nn.Module], nn.Module] | None = None,
    done: int | None = None,
    enough: Callable[[], bool] | None = None,
) -> None:
    """Train to the end of epoch `epochs`, from the last whole checkpoint if there is one. Rank 0 commits.

    `done` is the number of epochs that are committed without a gap; None looks it up. Rank 0 asks `enough`
    after each committed epoch except the last; where it says so all workers return, to be started again in
    another number.

    Metrics of an epoch: `train_loss`, `data_wait` (the share of the time that the slowest worker waited for
    data), `workers`, `micro_batches` where a worker's memory asked for more than one, and those of
    `task.measurements`.

    Raises:
        FloatingPointError: the loss or the weights are not finite; names the epoch, the step and the learning
            rate. What was committed stays, and nothing of that epoch is.
        ValueError: there are more workers than a batch has slots.
    """
    if task.batch_size < world_size:
        raise ValueError(
            f"expected at most {task.batch_size} training workers, one for each slot of a batch, found "
            f"{world_size}"
        )
    try:
        _train(task, step_store, inputs, epochs, rank, world_size, wrap, done, enough)
    finally:
        for data in task.data:
            data.close()


def share(batch_size: int, rank: int, world_size: int) -> range:
    """A worker's slots of a batch: together they are all of it, and in number they differ by one at most."""
    return range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)


def _train(
    task: TrainingTask,
    step_store: StepStore,
    inputs: Mapping[str, str],
    epochs: int,
    rank: int,
    world_size: int,
    wrap: Callable[[nn.Module], nn.Module] | None,
    done: int | None,
    enough: Callable[[], bool] | None,
) -> None:
    averages = Averages(task.trained, task.ema_halflife, ramp_up=task.ema_ramp_up)
    begun = _resume(task, averages, step_store, inputs, rank, world_size, done)
    network = wrap(task.network) if wrap else task.network
    batches = MicroBatches(task, network, step_store.name, alone=world_size == 1)
    if world_size > 1 and task.device.type == "cuda":
        slots = torch.tensor(share(task.batch_size, rank, world_size))
        batches.probe(slots, begun * task.steps_per_epoch, _moments(task))
    for epoch in range(begun + 1, epochs + 1):
        with _noted(step_store, epoch, rank) as write:
            notes = EpochNotes(write, task.steps_per_epoch)
            _epoch(task, network, batches, averages, step_store, inputs, epoch, rank, world_size, notes)
        asked = enough if epoch < epochs else None
        if asked is not None and _of_workers(float(rank == 0 and asked()), world_size)[0]:
            return


def _epoch(
    task: TrainingTask,
    network: nn.Module,
    batches: MicroBatches,
    averages: Averages,
    step_store: StepStore,
    inputs: Mapping[str, str],
    epoch: int,
    rank: int,
    world_size: int,
    notes: EpochNotes,
) -> None:
    slots = torch.tensor(share(task.batch_size, rank, world_size))
    # Gradients are averaged over workers, so a larger share weighs more; 1 where shares are even.
    weight = len(slots) * world_size / task.batch_size
    began, waited = time.monotonic(), _waited(task)
    network.train()
    total = torch.zeros((), dtype=torch.float64, device=task.device)
    finite = Finite(task, step_store.name, epoch, world_size)
    first = (epoch - 1) * task.steps_per_epoch
    for step in range(first, first + task.steps_per_epoch):
        torch.manual_seed(step * world_size + rank)  # dropout alone draws from it
        loss = batches.backward(slots, step, weight)
        if task.learning_rate is not None:
            for group in task.optimizer.param_groups:
                group["lr"] = task.learning_rate(step)
        task.optimizer.step()
        averages.update((step + 1) * task.batch_size, task.batch_size)
        total += loss
        finite.loss(total, step)
        notes.step(step + 1 - first, total, weight)
    data_wait = (_waited(task) - waited) / (time.monotonic() - began)
    train_loss = _of_workers(float(total / task.steps_per_epoch), world_size).mean()
    data_wait = round(float(_of_workers(data_wait, world_size).max()), 4)
    metrics = {"train_loss": float(train_loss), "data_wait": data_wait, "workers": world_size}
    if (parts := int(_of_workers(batches.parts, world_size).max())) > 1:
        metrics["micro_batches"] = parts
    metrics |= _slowness(task)
    with averages.applied():
        metrics |= _held_out(task, rank, world_size)
        finite.weights(metrics)
        weights = {name: value.detach().cpu().clone() for name, value in task.trained.state_dict().items()}
    if rank == 0:
        commit(step_store, "epochs", epoch, weights, inputs, time.monotonic() - began, metrics, task.device)
        whole = state(task.trained, task.optimizer, averages)
        commit(step_store, "checkpoints", epoch, whole, inputs, 0.0, {"workers": world_size}, task.device)
        forget(step_store, inputs, epoch, KEPT_CHECKPOINTS)


@contextmanager
def _noted(
    step_store: StepStore, epoch: int, rank: int
) -> Iterator[Callable[[Mapping[str, Any]], None] | None]:
    """Note who trains the epoch, and the error that ended it early; the context's value adds to the note, on
    rank 0."""
    own = attempt()
    if rank == 0:
        step_store.note_attempt("epochs", epoch, own)

    def write(fields: Mapping[str, Any]) -> None:
        step_store.note_attempt("epochs", epoch, own | dict(fields))

    try:
        yield write if rank == 0 else None
    except Exception as error:
        if rank == 0:
            step_store.note_attempt("epochs", epoch, own | failed(error))
        raise


def _moments(task: TrainingTask) -> int:
    """Bytes that the optimizer will still add: two moments of each parameter that learns, before its first
    step."""
    if task.optimizer.state:
        return 0
    return 2 * sum(each.nbytes for each in task.trained.parameters() if each.requires_grad)


def _slowness(task: TrainingTask) -> dict[str, Any]:
    """A warning for the receipt where float32 would be quicker."""
    if task.precision != "bfloat16" or lacks_kernels() or not (warning := slow_bfloat16()):
        return {}
    return {"warnings": [warning]}


def _waited(task: TrainingTask) -> float:
    return sum(data.waited for data in task.data)


def _held_out(task: TrainingTask, rank: int, world_size: int) -> dict[str, Any]:
    """Metrics of the held-out items, of which each worker measures every `world_size`-th."""
    task.network.eval()
    metrics: dict[str, Any] = {}
    for each in task.measurements:
        metrics |= _measured(task.network, each, rank, world_size)
    return metrics


def _measured(network: nn.Module, measurement: Measurement, rank: int, world_size: int) -> dict[str, Any]:
    items = torch.arange(rank, measurement.items, world_size)  # none, with more workers than items
    with torch.no_grad():
        chunks = [chunk for chunk in items.split(256) if len(chunk)]
        parts = [part for chunk in chunks for part in _fitting(network, measurement, chunk)]
    own = {name: torch.cat([part[name] for part in parts]).cpu() for name in (parts[0] if parts else ())}
    if world_size > 1:
        gathered: list[Any] = [None] * world_size
        dist.all_gather_object(gathered, (items, own))
        gathered = [part for part in gathered if len(part[0])]
        order = torch.cat([part[0] for part in gathered]).argsort()
        own = {name: torch.cat([part[1][name] for part in gathered])[order] for name in gathered[0][1]}
    return measurement.summarise(own)


def _fitting(network: nn.Module, measurement: Measurement, items: Tensor) -> list[dict[str, Tensor]]:
    """The values of some items, in halves where memory does not suffice for all at once."""
    try:
        return [measurement.measure(network, items)]
    except RuntimeError as error:
        if len(items) == 1 or not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    return [part for half in items.tensor_split(2) for part in _fitting(network, measurement, half)]


def _of_workers(value: float, world_size: int) -> Tensor:
    """The value of every worker, float64 [world_size]."""
    parts: list[Any] = [value]
    if world_size > 1:
        parts = [None] * world_size
        dist.all_gather_object(parts, value)
    return torch.tensor(parts, dtype=torch.float64)


def _resume(
    task: TrainingTask,
    averages: Averages,
    step_store: StepStore,
    inputs: Mapping[str, str],
    rank: int,
    world_size: int,
    done: int | None,
) -> int:
    """Load the newest whole checkpoint, which rank 0 chooses for all; returns its epoch, 0 without one."""
    shared: list[Any] = [0, None]
    if rank == 0:
        usable = unbroken(step_store.done("epochs", inputs)) if done is None else done
        shared = list(newest_whole(step_store, inputs, usable, KEPT_CHECKPOINTS))
        forget(step_store, inputs, shared[0], KEPT_CHECKPOINTS)  # who saved it may have died before it could
    if world_size > 1:
        dist.broadcast_object_list(shared, src=0)
    chosen, tensors = shared
    if tensors is not None:
        restore(task.trained, task.optimizer, averages, tensors)
    return chosen
