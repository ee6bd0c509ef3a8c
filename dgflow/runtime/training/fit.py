"""Training on many workers through Ray Train: this module starts the workers,
`dgflow.runtime.training.worker` is what they run.

Checkpoints and weights go to the root and not through Ray, so what a run goes on from is the same whether a
worker died, the driver died or another cluster took over. On a cluster the number of workers follows its
hosts: after the loss of one training goes on with those that are left, and where there is room for more it
stops at the end of an epoch and starts again with them. A loss costs the epoch in flight.

Restarts are the driver's, Ray Train's own are off. A training that keeps dying without finishing another
epoch is given up after `ATTEMPTS`; deaths with which a host was lost, and starts for which there was no room,
do not count.

A worker that died is noticed at once, one that hangs or whose host is cut off after a minute (`SETTINGS`, or
before, when Ray finds the host dead); the others are then ended too. `COLLECTIVE_SECONDS` is the last resort,
for workers that wait for each other where Ray sees all of them alive; it is long because all wait while one
commits an epoch.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

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

from dgflow.runtime import metrics
from dgflow.runtime.cluster import elastic, most_slots
from dgflow.runtime.cluster import hosts as hosts_alive
from dgflow.runtime.placement import Placement
from dgflow.runtime.pool.hosts import HOST_DEATH_SECONDS
from dgflow.runtime.ray_private import is_error_of_ray_train, raised_by_worker
from dgflow.runtime.training.capacity import Room
from dgflow.runtime.training.checkpoints import unbroken
from dgflow.runtime.training.worker import Job, ProcessGroup, work
from dgflow.specs.training_task import TrainingTask
from dgflow.store.objects import StoreError
from dgflow.store.step_store import StepStore

log = logging.getLogger(__name__)

ATTEMPTS = 3
POLL_SECONDS = 2.0
COLLECTIVE_SECONDS = 900
SETTINGS = {
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
    # For room, which was there when it was looked for: a host died meanwhile
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
}
_OF_A_PEER = re.compile(r"onnection|[Tt]imed? ?out|[Ss]ocket|[Bb]roken pipe|gloo|NCCL")


class TrainingFailed(RuntimeError):
    """Training ended without its epochs; carries the workers' own error as its cause."""


def fit(
    make_task: Callable[[], TrainingTask],
    steps: StepStore,
    inputs: Mapping[str, str],
    *,
    epochs: int,
    batch_size: int,
    placement: Placement,
    on_epoch: Callable[[int], None],
    tell: Callable[[str], None] = log.info,
) -> None:
    """Train until the weights of `epochs` epochs are committed; `on_epoch(number)` is called as each new one
    appears in the root.

    `placement` is one that `cluster.resolved` gave. It starts with as many workers as there is room for,
    `placement.train_workers` and the slots of a batch at most, and waits on a cluster that has room for none.
    `tell` is told how many they are and why, and of waiting.

    Raises:
        TrainingFailed: the workers died `ATTEMPTS` times in a row without finishing another epoch.
        Exception: what the workers' own code raised, such as a ValueError about its data.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    use_gpu, may_grow, wish = bool(placement.num_gpus), elastic(), placement.train_workers
    room = Room(use_gpu, min(wish or batch_size, batch_size), asked=wish is not None, tell=tell)
    newest = unbroken(steps.done("epochs", inputs))
    deaths: list[_Death] = []  # since the last new epoch
    before, lost, refused = 0, False, False
    try:
        while newest < epochs:
            workers, hosts = room.taken(), set(hosts_alive())
            if (
                found := _newest(steps, inputs, newest)
            ) > newest:  # another driver has trained while this one waited
                newest = found
                on_epoch(newest)
                continue
            if not (refused and workers == before):
                could = wish is None and may_grow and most_slots(1.0 if use_gpu else 0.0) > workers
                tell(
                    _said(workers, before, lost)
                    + ("; --train-workers N asks the autoscaler for more" if could else "")
                )
            metrics.workers(steps.name, workers)
            before, best = workers, newest

            def look() -> None:
                nonlocal newest
                room.ask()
                _settle(deaths)
                if (found := _newest(steps, inputs, newest)) > newest:
                    newest = found
                    room.settled()
                    on_epoch(newest)

            job = Job(make_task, steps, dict(inputs), epochs, newest, batch_size, use_gpu, may_grow, wish)
            error = _watched(job, workers, look)
            look()
            if newest > best:
                deaths.clear()
            lost, refused = error is not None, error is not None and room.refused(error)
            if error is not None:
                room.release()
            if error is not None and not refused:
                if (cause := _own_error(error)) is not None:
                    raise cause
                _count(deaths, hosts, error, steps.name, newest, epochs)
    finally:
        metrics.workers(steps.name, 0)
        room.leave()


def _said(workers: int, before: int, lost: bool) -> str:
    number = f"{workers} worker{'s' if workers > 1 else ''}"
    if workers > before and before:
        return f"training grows to {number}"
    if workers < before and lost:
        gone = before - workers
        return f"training goes on with {number}: {gone if gone > 1 else 'one'} {'were' if gone > 1 else 'was'} lost"
    return f"training {'goes on ' if before else ''}with {number}"


def _watched(job: Job, workers: int, look: Callable[[], None]) -> BaseException | None:
    """Run the workers beside a look at the root every few seconds; their error, if they had one."""
    outcome: list[BaseException | None] = []

    def target() -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="dgflow-train-") as scratch:
                TorchTrainer(
                    partial(work, job),
                    scaling_config=ScalingConfig(num_workers=workers, use_gpu=job.use_gpu),
                    torch_config=ProcessGroup(
                        backend="nccl" if job.use_gpu else "gloo", timeout_s=COLLECTIVE_SECONDS
                    ),
                    run_config=RunConfig(
                        name=job.steps.name,
                        storage_path=scratch,
                        failure_config=FailureConfig(
                            max_failures=0, controller_failure_limit=0, max_preemption_failures=0
                        ),
                    ),
                ).fit()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        with suppress(
            StoreError
        ):  # the workers may get through; what they are to the root, the look after their end tells
            look()
    return outcome[0]


def _newest(steps: StepStore, inputs: Mapping[str, str], known: int) -> int:
    """The last epoch that is committed with all before it, of which `known` are."""
    while steps.is_committed("epochs", known + 1, inputs):
        known += 1
    return known


@dataclass
class _Death:
    """Of workers that were started while `hosts` were alive.

    `own` is None while a lost host may yet turn out to be behind it.
    """

    hosts: set[str]
    when: float
    own: bool | None = None


def _settle(deaths: list[_Death]) -> None:
    """Decide which deaths came of a lost host, as far as is known by now: Ray may find a host dead only after
    its workers are missed."""
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
    """Another death, of workers that were started on `hosts`. Raises TrainingFailed after too many."""
    text = str(error).strip()
    deaths.append(
        _Death(hosts, time.monotonic(), False if isinstance(error, PreemptionError) or not hosts else None)
    )
    _settle(deaths)
    counted = sum(death.own is not False for death in deaths)
    note = "with a host, which does not count" if deaths[-1].own is False else f"try {counted} of {ATTEMPTS}"
    log.warning("training %s stopped after epoch %d (%s): %s", name, newest, note, _first_line(error))
    if counted >= ATTEMPTS:
        raise TrainingFailed(
            f"training {name} died {ATTEMPTS} times after epoch {newest} of {epochs}: {text}\n"
            f"The epochs up to {newest} are committed; the same command goes on from there"
        ) from error


def _first_line(error: BaseException) -> str:
    """Of what went wrong, for a log: of the controller's error, or of the first worker's."""
    inner = error.controller_failure if isinstance(error, ControllerError) else None
    lines = str(inner or next(iter(_failures(error)), error)).strip().splitlines()
    return next(
        (line for line in reversed(lines) if "rror" in line), lines[0] if lines else type(error).__name__
    )


def _own_error(error: BaseException) -> Exception | None:
    """What a worker's own code raised, which would only be raised again; None where it is that a worker died,
    hung or was not reached."""
    raised = map(raised_by_worker, _failures(error))
    return next((failure for failure in raised if not _from_outside(failure)), None)


def _failures(error: BaseException) -> list[Exception]:
    return list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else []


def _from_outside(failure: Exception) -> bool:
    """Whether Ray lost the worker, or the worker another one or the root."""
    if isinstance(failure, RayError | DistError | StoreError) or is_error_of_ray_train(failure):
        return True
    return isinstance(failure, RuntimeError | OSError) and bool(_OF_A_PEER.search(str(failure)))
