"""The training loop of one worker, for score networks, classifiers and discriminators.

The images and the noise of a batch are a pure function of (seed, step). So the loop keeps no random state, a
resumed run draws the same batches as an uninterrupted one, and every worker computes its share of the same
global batch.

After every epoch a checkpoint is committed, and then the weights, with metrics of the held-out images. In a
long epoch a checkpoint is also committed every `checkpoint_seconds`, and when a worker is notified that its
host will be reclaimed. A killed run resumes from the last complete checkpoint. With the same number of
workers on the CPU it ends with the same bits and the same training loss. With another number of workers, each
batch and its gradient are the same except for rounding (and dropout, if a network has it).

The loop uses torch and the store, not Ray: `fit` runs it on many workers, tests in their own process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dgflow.diffusion.bfloat16 import slow_bfloat16
from dgflow.diffusion.device_errors import is_out_of_memory
from dgflow.diffusion.rounded_products import lacks_kernels
from dgflow.runtime.environment import attempt, failed
from dgflow.runtime.training.averages import Averages
from dgflow.runtime.training.checkpoints import Checkpoints, Start, restore, state, unbroken
from dgflow.runtime.training.finiteness import Finite
from dgflow.runtime.training.micro_batches import MicroBatches
from dgflow.runtime.training.notes import EpochNotes
from dgflow.runtime.training.saver import Saver
from dgflow.runtime.training.syncs import Syncs, Wish
from dgflow.specs.training_task import Measurement, TrainingTask
from dgflow.store.step_store import StepStore

TOTALS = "totals"  # in a checkpoint within an epoch: the sum of each worker's losses, float64 [workers]


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
    checkpoint_seconds: float = 0.0,
    asks: Callable[[], Wish] = Wish,
) -> None:
    """Trains to the end of epoch `epochs`, from the last complete checkpoint if there is one. Rank 0 commits.

    The loop returns early in three cases:

    - `enough` is true on rank 0 after a committed epoch other than the last. All workers then return, so that
      the training can start again with more workers.
    - `asks` of a worker requests it within an epoch.
    - Another training has committed different weights of an epoch (`Checkpoints.finish`).

    Metrics of an epoch: `train_loss`, `data_wait` (the share of the time that the slowest worker waited for
    data since the training started or resumed), `workers`, `micro_batches` if a worker's memory required more
    than one, and those of `task.measurements`.

    Args:
        done: number of epochs that are committed without a gap; None reads it from the store.
        enough: called on rank 0 after each committed epoch; True ends the loop.
        checkpoint_seconds: time from the last checkpoint to the next within an epoch; 0: none for its age.
        asks: called on each worker at every sync; returns its `Wish` to save a checkpoint or leave the loop.

    Raises:
        FloatingPointError: the loss or the weights are not finite; the message names the epoch, the step and
            the learning rate. Nothing of that epoch is committed, and earlier epochs are kept.
        ValueError: there are more workers than a batch has slots.
    """
    if task.batch_size < world_size:
        raise ValueError(
            f"expected at most {task.batch_size} training workers, one for each slot of a batch, found "
            f"{world_size}"
        )
    checkpoints = Checkpoints(step_store, inputs, task.steps_per_epoch)
    saver = Saver(checkpoints, checkpoint_seconds)
    try:
        training = _Training(task, step_store, inputs, rank, world_size, wrap, checkpoints, saver, asks)
        training.run(epochs, done, enough)
    finally:
        saver.close()
        for data in task.data:
            data.close()


def share(batch_size: int, rank: int, world_size: int) -> range:
    """Returns a worker's slots of a batch. The shares of all workers form the whole batch, and their sizes
    differ by at most one."""
    return range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)


@dataclass
class _Training:
    """One worker's part of a training."""

    task: TrainingTask
    step_store: StepStore
    inputs: Mapping[str, str]
    rank: int
    world_size: int
    wrap: Callable[[nn.Module], nn.Module] | None
    checkpoints: Checkpoints
    saver: Saver
    asks: Callable[[], Wish]

    def run(self, epochs: int, done: int | None, enough: Callable[[], bool] | None) -> None:
        task = self.task
        self.averages = Averages(task.trained, task.ema_halflife, ramp_up=task.ema_ramp_up)
        start = self._resume(done)
        self.network = self.wrap(task.network) if self.wrap else task.network
        self.batches = MicroBatches(task, self.network, self.step_store.name, alone=self.world_size == 1)
        self.slots = torch.tensor(share(task.batch_size, self.rank, self.world_size))
        if self.world_size > 1 and task.device.type == "cuda":
            self.batches.probe(self.slots, start.steps, _moments(task))
        for epoch in range(start.steps // task.steps_per_epoch + 1, epochs + 1):
            with _noted(self.step_store, epoch, self.rank, start, task.steps_per_epoch) as write:
                leave = self._epoch(epoch, EpochNotes(write, task.steps_per_epoch), start)
            asked, start = enough if epoch < epochs else None, Start()
            leave = leave or (self.rank == 0 and asked is not None and asked())
            if epoch < epochs and self._of_workers(float(leave)).any():
                return

    def _epoch(self, epoch: int, notes: EpochNotes, start: Start) -> bool:
        """Trains one epoch, from `start` if that lies within it; returns True if the loop has to return."""
        task, first = self.task, (epoch - 1) * self.task.steps_per_epoch
        # Gradients are averaged over workers, so a larger share weighs more; 1 where shares are even.
        weight = len(self.slots) * self.world_size / task.batch_size
        began, waited = time.monotonic(), _waited(task)
        self.network.train()
        total, begun = self._total(start), max(0, start.steps - first)
        syncs = Syncs(Finite(task, self.step_store.name, epoch), self.rank, self.world_size, begun)
        wish = Wish()
        for step in range(first + begun, first + task.steps_per_epoch):
            torch.manual_seed(step * self.world_size + self.rank)  # only dropout draws from it
            loss = self.batches.backward(self.slots, step, weight)
            if task.learning_rate is not None:
                for group in task.optimizer.param_groups:
                    group["lr"] = task.learning_rate(step)
            task.optimizer.step()
            self.averages.update((step + 1) * task.batch_size, task.batch_size)
            total += loss
            number = step + 1 - first
            wish = syncs.after(number, total, self._wish)
            notes.step(number, total, weight, self.saver.safe - first)
            if number == task.steps_per_epoch:
                break  # the checkpoint of the epoch follows
            if wish.save:
                self._save(step + 1, total, start.seconds + time.monotonic() - began)
            if wish.leave:
                self.saver.wait()
                return True
        seconds = time.monotonic() - began
        return (
            self._finish(epoch, total, start.seconds, began, (_waited(task) - waited) / seconds) or wish.leave
        )

    def _wish(self) -> Wish:
        """Returns the wish of this worker."""
        wish = self.asks()
        return wish._replace(save=wish.save or (self.rank == 0 and self.saver.due))

    def _save(self, steps: int, total: Tensor, seconds: float) -> None:
        """Starts writing a checkpoint after `steps` over all epochs, on rank 0, with the totals of all
        workers."""
        totals = self._of_workers(float(total))
        if self.rank == 0 and totals.isfinite().all():  # otherwise the next sync ends the training
            tensors = state(self.task.trained, self.task.optimizer, self.averages) | {TOTALS: totals}
            self.saver.save(steps, tensors, self.world_size, seconds, self.task.device)

    def _total(self, start: Start) -> Tensor:
        """Returns the sum of this worker's losses at `start`; the mean over workers if their number has
        changed."""
        totals = torch.zeros(1, dtype=torch.float64) if start.tensors is None else start.tensors[TOTALS]
        total = totals[self.rank] if len(totals) == self.world_size else totals.mean()
        return total.to(self.task.device, copy=True)

    def _finish(self, epoch: int, total: Tensor, before: float, began: float, data_wait: float) -> bool:
        """Measures and commits an epoch; returns True, on rank 0, if the loop has to return."""
        task = self.task
        train_loss = self._of_workers(float(total / task.steps_per_epoch)).mean()
        data_wait = round(float(self._of_workers(data_wait).max()), 4)
        metrics = {"train_loss": float(train_loss), "data_wait": data_wait, "workers": self.world_size}
        if (parts := int(self._of_workers(self.batches.parts).max())) > 1:
            metrics["micro_batches"] = parts
        metrics |= _slowness(task)
        with self.averages.applied():
            metrics |= _held_out(task, self.rank, self.world_size)
            Finite(task, self.step_store.name, epoch).weights(metrics)
            weights = {name: each.detach().cpu().clone() for name, each in task.trained.state_dict().items()}
        if self.rank:
            return False
        self.saver.wait()
        whole = state(task.trained, task.optimizer, self.averages)
        seconds = before + time.monotonic() - began
        goes_on = self.checkpoints.finish(epoch, weights, whole, seconds, metrics, task.device)
        self.saver.restart()
        return not goes_on

    def _resume(self, done: int | None) -> Start:
        """Loads the newest complete checkpoint, which rank 0 reads and sends to all workers."""
        shared = [Start()]
        if self.rank == 0:
            usable = unbroken(self.step_store.done("epochs", self.inputs)) if done is None else done
            shared = [self.checkpoints.newest(usable)]
            self.saver.safe = shared[0].steps
        if self.world_size > 1:
            dist.broadcast_object_list(shared, src=0)
        [start] = shared
        if start.tensors is None:
            return start
        restore(self.task.trained, self.task.optimizer, self.averages, start.tensors)
        totals = {name: value for name, value in start.tensors.items() if name == TOTALS}
        return replace(start, tensors=totals or None)  # frees the memory of the state

    def _of_workers(self, value: float) -> Tensor:
        """Returns the value of every worker, float64 [world_size]."""
        return _of_workers(value, self.world_size)


@contextmanager
def _noted(
    step_store: StepStore, epoch: int, rank: int, start: Start, steps: int
) -> Iterator[Callable[[Mapping[str, Any]], None] | None]:
    """Returns a context in which rank 0 notes the attempt at an epoch of `steps` steps, and the error that
    ends it. The value of the context is a function that adds fields to the note; None on other ranks."""
    note = attempt()
    note["started"] -= start.seconds
    if (safe := start.steps - (epoch - 1) * steps) > 0:
        note |= {"safe": safe, "steps": steps}
    if rank == 0:
        step_store.note_attempt("epochs", epoch, note)

    def write(fields: Mapping[str, Any]) -> None:
        step_store.note_attempt("epochs", epoch, note | dict(fields))

    try:
        yield write if rank == 0 else None
    except Exception as error:
        if rank == 0:
            step_store.note_attempt("epochs", epoch, note | failed(error))
        raise


def _moments(task: TrainingTask) -> int:
    """Returns the bytes that the first step of the optimiser will allocate: two moments of each trainable
    parameter. 0 after the first step."""
    if task.optimizer.state:
        return 0
    return 2 * sum(each.nbytes for each in task.trained.parameters() if each.requires_grad)


def _slowness(task: TrainingTask) -> dict[str, Any]:
    """Returns a warning for the receipt if bfloat16 is slower than float32 on this machine."""
    if task.precision != "bfloat16" or lacks_kernels() or not (warning := slow_bfloat16()):
        return {}
    return {"warnings": [warning]}


def _waited(task: TrainingTask) -> float:
    return sum(data.waited for data in task.data)


def _held_out(task: TrainingTask, rank: int, world_size: int) -> dict[str, Any]:
    """Returns the metrics of the held-out items; each worker measures every `world_size`-th item."""
    task.network.eval()
    metrics: dict[str, Any] = {}
    for each in task.measurements:
        metrics |= _measured(task.network, each, rank, world_size)
    return metrics


def _measured(network: nn.Module, measurement: Measurement, rank: int, world_size: int) -> dict[str, Any]:
    items = torch.arange(rank, measurement.items, world_size)  # none, if there are more workers than items
    with torch.no_grad():
        chunks = [chunk for chunk in items.split(256) if len(chunk)]
        parts = [part for chunk in chunks for part in _fitting(network, measurement, chunk)]
    values = {name: torch.cat([part[name] for part in parts]).cpu() for name in (parts[0] if parts else ())}
    if world_size > 1:
        gathered: list[Any] = [None] * world_size
        dist.all_gather_object(gathered, (items, values))
        gathered = [part for part in gathered if len(part[0])]
        order = torch.cat([part[0] for part in gathered]).argsort()
        values = {name: torch.cat([part[1][name] for part in gathered])[order] for name in gathered[0][1]}
    return measurement.summarise(values)


def _fitting(network: nn.Module, measurement: Measurement, items: Tensor) -> list[dict[str, Tensor]]:
    """Returns the values of some items; divides them into halves while memory does not suffice."""
    try:
        return [measurement.measure(network, items)]
    except RuntimeError as error:
        if len(items) == 1 or not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    return [part for half in items.tensor_split(2) for part in _fitting(network, measurement, half)]


def _of_workers(value: float, world_size: int) -> Tensor:
    """Returns the value of every worker, float64 [world_size]."""
    parts: list[Any] = [value]
    if world_size > 1:
        parts = [None] * world_size
        dist.all_gather_object(parts, value)
    return torch.tensor(parts, dtype=torch.float64)
