"""The driver of a training: starts its workers through Ray Train, and restarts them after losses, until its
epochs are done.

Checkpoints and weights go to the root and not through Ray. So a run resumes from the same state after the
death of a worker, after the death of the driver, and on another cluster.

On a cluster the number of workers follows the hosts. After a loss the training continues with the remaining
workers. If there is room for more, it stops at the end of an epoch and restarts with more. A loss costs the
steps since the last checkpoint, which is written at the end of each epoch, and in a long epoch every
`placement.checkpoint_minutes`. If Ray announces that a host will be reclaimed, the workers commit a
checkpoint immediately and restart without that host.

One driver trains a step at a time (`lease`). Another driver on the same root waits, uses the epochs as they
appear, and takes over if the first driver has ended or its heartbeat has stopped.

The driver restarts workers; Ray Train's own restarts are off. A training fails after `ATTEMPTS` deaths
without another epoch in between. Deaths due to the loss of a host, and starts for which there was no room, do
not count.

A dead worker is detected immediately. A worker that hangs, or whose host is cut off, is detected after a
minute (`SETTINGS`) or when Ray declares the host dead; the other workers are then stopped too.
`COLLECTIVE_SECONDS` is the last resort, for workers that wait for each other although Ray sees all of them
alive. It is long because all workers wait while one of them commits an epoch.
"""

from __future__ import annotations

import logging
import math
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from ray.exceptions import RayError
from ray.train import (
    ControllerError,
    FailureConfig,
    PreemptionError,
    RunConfig,
    ScalingConfig,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer
from torch.distributed import DistError

from dgflow.diffusion.device_errors import is_broken
from dgflow.runtime import metrics
from dgflow.runtime.cluster import hosts as hosts_alive
from dgflow.runtime.cluster import most_slots
from dgflow.runtime.durations import duration
from dgflow.runtime.machine import elastic
from dgflow.runtime.placement import Placement
from dgflow.runtime.pool.hosts import HOST_DEATH_SECONDS
from dgflow.runtime.ray_private import is_error_of_ray_train, raised_by_worker
from dgflow.runtime.training.capacity import Capacity
from dgflow.runtime.training.checkpoints import unbroken
from dgflow.runtime.training.lease import Claim, Lease
from dgflow.runtime.training.notes import NOTE_SECONDS
from dgflow.runtime.training.worker import ProcessGroup, TrainingJob, work
from dgflow.specs.training_task import TrainingTask
from dgflow.store.objects import StoreError, StoreRefusal
from dgflow.store.runs import STALE_SECONDS
from dgflow.store.step_store import StepStore

log = logging.getLogger(__name__)

ATTEMPTS = 3
POLL_SECONDS = 2.0
# Between two checks of another driver's training, and between two messages about it.
WAIT_SECONDS, REMINDER_SECONDS = 5.0, 600.0
COLLECTIVE_SECONDS = 900
SETTINGS = {
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
    # There was room just before the start. If workers do not start now, a host has died.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
}
_OF_A_PEER = re.compile(r"onnection|[Tt]imed? ?out|[Ss]ocket|[Bb]roken pipe|gloo|NCCL")


class TrainingFailed(RuntimeError):
    """Raised if a training ended before its epochs were done; its cause is the error of the workers."""


def fit(
    make_task: Callable[[], TrainingTask],
    step_store: StepStore,
    inputs: Mapping[str, str],
    *,
    epochs: int,
    batch_size: int,
    placement: Placement,
    on_epoch: Callable[[int], None],
    tell: Callable[[str], None] = log.info,
    on_note: Callable[[Mapping[str, Any]], None] | None = None,
) -> None:
    """Trains until the weights of `epochs` epochs are committed.

    Training starts with as many workers as fit, at most `placement.train_workers` and `batch_size`. While a
    cluster has no room for a worker, it waits.

    Args:
        placement: result of `cluster.resolved`.
        on_epoch: called with the number of each epoch once it is committed.
        tell: receives a line when the number of workers changes, and while the training waits.
        on_note: receives the newest note of the current epoch, with its step and loss, about every
            `NOTE_SECONDS`.

    Raises:
        TrainingFailed: the workers died `ATTEMPTS` times in a row without finishing another epoch.
        Exception: an error that the workers' code raised, such as a ValueError about the data.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    use_gpu, may_grow, wish = bool(placement.num_gpus), elastic(), placement.train_workers
    capacity = Capacity(use_gpu, min(wish or batch_size, batch_size), asked=wish is not None, tell=tell)
    newest = unbroken(step_store.done("epochs", inputs))
    deaths: list[_Death] = []  # since the latest epoch
    before, refused = 0, False  # of the previous start: workers, lacked room
    hosts: set[str] = set()  # alive at the previous start
    read = time.monotonic()  # time of the latest read of the note
    # The note of an earlier attempt, which is not reported.
    earlier = {} if on_note is None else step_store.attempt("epochs", newest + 1)
    lease, reminded = Lease(step_store), -math.inf
    try:
        while newest < epochs:
            if (holder := lease.take()) is not None:
                if time.monotonic() - reminded >= REMINDER_SECONDS:
                    reminded = time.monotonic()
                    tell(_waiting(holder, step_store.name))
                time.sleep(WAIT_SECONDS)
                if (committed := _newest(step_store, inputs, newest)) > newest:
                    newest = committed
                    on_epoch(newest)
                continue
            workers = capacity.taken()
            hosts, earlier_hosts = set(hosts_alive()), hosts
            if (committed := _newest(step_store, inputs, newest)) > newest:
                newest = committed  # another driver has trained while this one waited
                on_epoch(newest)
                continue
            if not (refused and workers == before):
                could = wish is None and may_grow and most_slots(1.0 if use_gpu else 0.0) > workers
                hint = "; --train-workers N asks the autoscaler for more" if could else ""
                tell(_change(workers, before, bool(earlier_hosts - hosts)) + hint)
            metrics.workers(step_store.name, workers)
            before, best = workers, newest

            def look() -> None:
                nonlocal newest, read
                if on_note is not None and time.monotonic() - read >= NOTE_SECONDS / 2:
                    read = time.monotonic()
                    note = step_store.attempt("epochs", newest + 1)
                    if note.get("started") != earlier.get("started"):
                        on_note(note)
                capacity.ask()
                _settle(deaths)
                if (committed := _newest(step_store, inputs, newest)) > newest:
                    newest = committed
                    capacity.settled()
                    on_epoch(newest)

            job = TrainingJob(
                make_task,
                step_store,
                dict(inputs),
                epochs,
                newest,
                batch_size,
                use_gpu,
                may_grow,
                wish,
                lease.number,
                60.0 * placement.checkpoint_minutes,
            )
            error = _watched(job, workers, look)
            look()
            if newest > best:
                deaths.clear()
            refused = error is not None and capacity.refused(error)
            if error is None:
                continue
            capacity.release()
            if not refused:
                if (cause := _own_error(error)) is not None:
                    raise cause
                _count(deaths, hosts, error, step_store.name, newest, epochs)
    finally:
        metrics.workers(step_store.name, 0)
        capacity.leave()
        lease.end()


def _waiting(holder: Claim, name: str) -> str:
    return (
        f"waiting: process {holder.pid} on {holder.host} has trained {name} for {duration(holder.seconds)}. "
        "This run uses its epochs as they appear, and takes over if that process ends or sends no heartbeat "
        f"for {STALE_SECONDS:.0f} s. To continue here immediately, end that process"
    )


def _change(workers: int, before: int, lost: bool) -> str:
    number = f"{workers} worker{'s' if workers > 1 else ''}"
    if workers > before and before:
        return f"training grows to {number}"
    if workers < before:
        why = "a host was lost" if lost else f"the cluster has no room for {before}"
        return f"training continues with {number}: {why}"
    return f"training {'continues ' if before else ''}with {number}"


def _watched(job: TrainingJob, workers: int, look: Callable[[], None]) -> BaseException | None:
    """Runs the workers until they end, and calls `look` every few seconds. Returns the error with which they
    ended; None if there was none."""
    outcome: list[BaseException | None] = []

    def target() -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="dgflow-train-") as scratch:
                no_restarts = FailureConfig(
                    max_failures=0, controller_failure_limit=0, max_preemption_failures=0
                )
                TorchTrainer(
                    partial(work, job),
                    scaling_config=ScalingConfig(num_workers=workers, use_gpu=job.use_gpu),
                    torch_config=ProcessGroup(
                        backend="nccl" if job.use_gpu else "gloo", timeout_s=COLLECTIVE_SECONDS
                    ),
                    run_config=RunConfig(
                        name=job.step_store.name, storage_path=scratch, failure_config=no_restarts
                    ),
                ).fit()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        with suppress(StoreError):  # the workers may succeed; the check after their end raises it
            look()
    return outcome[0]


def _newest(step_store: StepStore, inputs: Mapping[str, str], newest: int) -> int:
    """Returns the last epoch that is committed without a gap before it, given that the epochs up to `newest`
    are committed."""
    while step_store.is_committed("epochs", newest + 1, inputs):
        newest += 1
    return newest


@dataclass
class _Death:
    """A death of workers that were started while `hosts` were alive.

    `own` is False if the death came with the loss of a host, True if it did not, and None while that is open.
    """

    hosts: set[str]
    when: float
    own: bool | None = None


def _settle(deaths: list[_Death]) -> None:
    """Decides which deaths came with the loss of a host. Ray may declare a host dead only after its workers
    have died, so a death stays open for `HOST_DEATH_SECONDS`."""
    if all(death.own is not None for death in deaths):
        return
    alive = hosts_alive().keys()
    for death in deaths:
        if death.own is None and not death.hosts <= alive:
            death.own = False
        elif death.own is None and time.monotonic() - death.when >= HOST_DEATH_SECONDS:
            death.own = True


def _count(
    deaths: list[_Death], hosts: set[str], error: BaseException, name: str, newest: int, epochs: int
) -> None:
    """Records a death of workers that were started on `hosts`. Raises TrainingFailed after too many."""
    innocent = isinstance(error, PreemptionError) or not hosts
    deaths.append(_Death(hosts, time.monotonic(), False if innocent else None))
    _settle(deaths)
    counted = sum(death.own is not False for death in deaths)
    note = "with a host, which does not count" if deaths[-1].own is False else f"try {counted} of {ATTEMPTS}"
    log.warning("training %s stopped after epoch %d (%s): %s", name, newest, note, _first_line(error))
    if counted >= ATTEMPTS:
        raise TrainingFailed(
            f"training {name} died {ATTEMPTS} times after epoch {newest} of {epochs}: {str(error).strip()}\n"
            f"The epochs up to {newest} are committed; the same command continues from there"
        ) from error


def _first_line(error: BaseException) -> str:
    """Returns the most informative line of the controller's error, or of the first worker's, for a log."""
    inner = error.controller_failure if isinstance(error, ControllerError) else None
    lines = str(inner or next(iter(_failures(error)), error)).strip().splitlines()
    return next(
        (line for line in reversed(lines) if "rror" in line), lines[0] if lines else type(error).__name__
    )


def _own_error(error: BaseException) -> BaseException | None:
    """Returns the error of a worker's own code, which a restart would only raise again; None if a worker
    died, hung or was unreachable."""
    raised = map(raised_by_worker, _failures(error))
    return next((failure for failure in raised if not _from_outside(failure)), None)


def _failures(error: BaseException) -> list[Exception]:
    return list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else []


def _from_outside(failure: BaseException) -> bool:
    """True if Ray lost the worker, or the worker lost its GPU, another worker or the root."""
    if isinstance(failure, StoreRefusal):  # denied, or the disk is full: another start would meet it again
        return False
    if isinstance(failure, RayError | DistError | StoreError) or is_error_of_ray_train(failure):
        return True
    if is_broken(failure):  # a GPU may work again in another process, or on another host
        return True
    return isinstance(failure, RuntimeError | OSError) and bool(_OF_A_PEER.search(str(failure)))
