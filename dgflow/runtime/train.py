"""Training on many workers through Ray Train: this module starts the workers, `dgflow.runtime.training` is what they do.

Checkpoints and weights go to the root and not through Ray, so what a run goes on from is the same whether a worker died, the driver died or
another cluster took over. Restarts are the driver's: a training that keeps dying without finishing another epoch is given up after
`ATTEMPTS`.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchConfig, TorchTrainer, get_device, prepare_model

from dgflow.runtime.cluster import slots
from dgflow.runtime.environment import without_gpus
from dgflow.runtime.placement import Placement
from dgflow.runtime.training import TrainingTask, train, unbroken
from dgflow.store.step_store import StepStore

log = logging.getLogger(__name__)

ATTEMPTS = 3
POLL_SECONDS = 2.0


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
) -> None:
    """Train until the weights of `epochs` epochs are committed; `on_epoch(number)` is called as each new one appears in the root.

    `placement` is one that `cluster.resolved` gave. Where it does not say how many workers, as many as there is room for and as divide
    `batch_size`.

    Raises:
        TrainingFailed: the workers died `ATTEMPTS` times in a row without finishing another epoch.
        Exception: what the workers' own code raised, such as a ValueError about its data.
    """
    use_gpu = bool(placement.num_gpus)
    workers = placement.train_workers or sharers(batch_size, slots(1.0 if use_gpu else 0.0))
    configuration = {"make_task": make_task, "steps": steps, "inputs": dict(inputs), "epochs": epochs, "use_gpu": use_gpu}
    tries, best = 0, _newest(steps, inputs)
    while _newest(steps, inputs) < epochs:
        with tempfile.TemporaryDirectory(prefix="dgflow-train-") as scratch:
            trainer = TorchTrainer(
                _worker,
                train_loop_config=configuration,
                scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
                torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
                run_config=RunConfig(name=steps.name, storage_path=scratch, failure_config=FailureConfig(max_failures=0)),
            )
            error = _watched(trainer, lambda: on_epoch(_newest(steps, inputs)))
        if error is None:
            continue
        if (cause := _own_error(error)) is not None:
            raise cause
        newest = _newest(steps, inputs)
        tries, best = (tries + 1, best) if newest <= best else (1, newest)
        log.warning(
            "training %s stopped after epoch %d (try %d of %d): %s", steps.name, newest, tries, ATTEMPTS, str(error).strip().splitlines()[0]
        )
        if tries >= ATTEMPTS:
            raise TrainingFailed(
                f"training {steps.name} died {ATTEMPTS} times after epoch {newest} of {epochs}: {error}\n"
                f"The epochs up to {newest} are committed; the same command goes on from there"
            ) from error


def sharers(batch_size: int, most: int) -> int:
    """How many workers, `most` at most, share a batch evenly."""
    return max(number for number in range(1, most + 1) if batch_size % number == 0)


def _worker(configuration: dict[str, Any]) -> None:
    context = get_context()
    if configuration["use_gpu"]:
        # Each sees all GPUs of its node. Before the task is made, and before the first collective: else all of them take the first one.
        torch.cuda.set_device(get_device())
    else:
        without_gpus()
    task = configuration["make_task"]()
    train(
        task,
        configuration["steps"],
        configuration["inputs"],
        epochs=configuration["epochs"],
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        wrap=lambda network: prepare_model(network, parallel_strategy_kwargs={"broadcast_buffers": False}),
    )


def _watched(trainer: TorchTrainer, tell: Callable[[], None]) -> BaseException | None:
    """Run `trainer.fit()` beside a look at the root every few seconds; its error, if it had one."""
    outcome: list[BaseException | None] = []

    def target() -> None:
        try:
            trainer.fit()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        tell()
    return outcome[0]


def _newest(steps: StepStore, inputs: Mapping[str, str]) -> int:
    """The last epoch that is committed with all before it."""
    return unbroken(steps.done("epochs", inputs))


def _own_error(error: BaseException) -> BaseException | None:
    """What the workers' own code raised, which would only be raised again.

    None where a worker died (the others then lose it, and raise too).
    """
    failures = [getattr(failure, "_base_exc", failure) for failure in getattr(error, "worker_failures", {}).values()]
    if not failures or any(isinstance(failure, RayError) or "onnection" in str(failure) for failure in failures):
        return None
    return failures[0]
