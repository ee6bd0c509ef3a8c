"""Trainings by several local processes, over gloo and without Ray: one start of the processes for any number
of trainings."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from dgflow.engine.root import Root
from dgflow.runtime.training import syncs
from dgflow.runtime.training.loop import train
from dgflow.runtime.training.syncs import Wish
from dgflow.specs.bound import Bound
from dgflow.specs.train_step import TrainStep
from dgflow.store.open import open_store


@dataclass
class Training:
    """A training of `step` in the root to its last epoch by that many workers, or until there are `stop`
    epochs, or a checkpoint after step `leave` of the training.

    Receipts name no inputs.
    """

    step: TrainStep
    root: Path
    inputs: Bound
    workers: int
    stop: int | None = None
    leave: int | None = None
    plain: bool = False  # steps of plain gradient descent of rate 1, which change the weights by the gradient


def run(folder: Path, trainings: list[Training]) -> None:
    """Runs the trainings one after the other. Raises the error of the first worker that failed.

    The processes are forks of one that has imported the modules, and done nothing else.
    """
    most = max(training.workers for training in trainings)
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    start_processes(_process, args=(folder, trainings), nprocs=most, start_method="forkserver")


def _process(rank: int, folder: Path, trainings: list[Training]) -> None:
    torch.set_num_threads(1)
    for number, each in enumerate(trainings):
        if rank >= each.workers:
            continue
        meeting = f"file://{folder}/meeting-{number}"
        dist.init_process_group(
            "gloo", init_method=meeting, rank=rank, world_size=each.workers, timeout=timedelta(seconds=120)
        )
        try:
            _train(rank, each)
        finally:
            dist.destroy_process_group()


def _train(rank: int, each: Training) -> None:
    task = each.step.training_task(each.inputs)
    if each.plain:
        task.optimizer, task.learning_rate = torch.optim.SGD(task.trained.parameters(), lr=1.0), None
    steps = Root(open_store(str(each.root))).step_store(each.step)

    def enough() -> bool:
        return steps.is_committed("epochs", each.stop or 0, {})

    options: dict[str, Any] = (
        {"wrap": lambda network: DistributedDataParallel(network, broadcast_buffers=False)}
        if each.workers > 1
        else {}
    )
    syncs.EVERY = 1
    if each.stop is not None:
        options["enough"] = enough
    if each.leave is not None:
        whole, taken = task.loss, []
        task.loss = lambda network, slots, step: taken.append(step) or whole(network, slots, step)
        # Only the last worker has the notice, as on a host that will be reclaimed.
        last = rank == each.workers - 1
        options["asks"] = lambda: Wish(*[last and taken[-1] + 1 == each.leave] * 2)
    train(task, steps, {}, epochs=each.step.epochs, rank=rank, world_size=each.workers, **options)
