"""Workers as Ray actors."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from typing import Any
from uuid import uuid4

import ray
from ray import ObjectRef
from ray.exceptions import RayError, RayTaskError

from dgflow.runtime import cluster, ray_private
from dgflow.runtime.devices import broken, check_gpu
from dgflow.runtime.environment import without_gpus
from dgflow.runtime.machine import elastic
from dgflow.runtime.pool.fleet import CANCELLED_LATE, End, Place, Room, Work


class Worker:
    """The actor; it keeps the function that `make` returned for the latest job."""

    def __init__(self, *, gpu: bool) -> None:
        self.gpu = gpu
        if not gpu:
            without_gpus()
        self.job: int | None = None
        self.work: Work | None = None
        self.seconds = 0.0  # duration of the last item

    def ready(self) -> Place:
        """Returns the worker's place. Raises NoDevice if it was given a GPU that it cannot use."""
        context = ray.get_runtime_context()
        host = context.get_node_id()
        if not self.gpu:
            return Place(host, str(os.getpid()))
        check_gpu(host)
        return Place(host, ",".join(context.get_accelerator_ids().get("GPU", [])))

    def run(self, job: int, make: list[ObjectRef[Callable[[], Work]]], item: Any) -> Any:
        task = ray.get_runtime_context().get_task_id()
        if self.seconds >= CANCELLED_LATE and ray_private.has_note(_cancellation(task)):
            return _Skipped()
        began = time.monotonic()
        if self.job != job or self.work is None:
            self.work = None  # frees the last job's networks before the next one's are loaded
            self.work, self.job = ray.get(make[0])(), job
        try:
            return self.work(item)
        except Exception as error:
            if (device_broken := broken(error)) is None:
                raise
            raise device_broken from error
        finally:
            self.seconds = time.monotonic() - began


class _Skipped:
    """The value of a call that was cancelled before it started."""


def _cancellation(task: str | None) -> str:
    """Returns the name of the flag that cancels a call."""
    return f"dgflow-skip-{task}"


class RayFleet:
    """Actors that have `num_gpus` GPUs each, or a CPU and no GPU if that is 0.

    - Actors with GPUs request no CPU, so that pools of both kinds can run side by side.
    - Ray's own retries are off, because the pool counts attempts.
    - Ray's autoscaler counts an actor that does not fit yet as demand, and this demand ends with the job. A
      request through `ray.autoscaler.sdk.request_resources` would outlive a driver that was killed.
    """

    def __init__(self, num_gpus: float) -> None:
        self.needs = f"{num_gpus:g} GPU" if num_gpus else "1 CPU"
        self.elastic = elastic()
        self._num_gpus = num_gpus
        self._actor = ray.remote(
            num_cpus=0 if num_gpus else 1, num_gpus=num_gpus, max_restarts=0, max_task_retries=0
        )(Worker)
        self._kind, self._started = f"{'gpu' if num_gpus else 'cpu'}-{uuid4().hex[:6]}", 0
        self._jobs = 0
        self._cancelled: set[str] = set()

    def clock(self) -> float:
        return time.monotonic()

    def load(self, make: Callable[[], Work]) -> tuple[int, list[ObjectRef[Callable[[], Work]]]]:
        self._jobs += 1
        # The reference is in a list, so that Ray does not fetch it for each call; the worker does, once per
        # job.
        return self._jobs, [ray.put(make)]

    def start(self, avoid: Collection[str]) -> tuple[Any, Any]:
        self._started += 1
        # The name is unique, because two drivers may share a namespace.
        options: dict[str, Any] = {"name": f"dgflow worker {self._kind}-{self._started}"}
        if avoid:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(avoid))})"}
        actor = self._actor.options(**options).remote(gpu=self._num_gpus > 0)
        return actor, actor.ready.remote()

    def submit(self, worker: Any, loaded: Any, item: Any, name: str) -> Any:
        return worker.run.options(name=name).remote(*loaded, item)

    def cancel(self, call: Any) -> None:
        # Not `ray.cancel`: Ray 2.60 still runs an actor's queued call, and then drops its result (measured).
        self._cancelled.add(call.task_id().hex())
        ray_private.set_note(_cancellation(call.task_id().hex()))

    def wait(self, calls: list[Any], seconds: float) -> list[Any]:
        if not calls:
            time.sleep(seconds)
            return []
        ended, others = ray.wait(calls, num_returns=1, timeout=seconds)
        if ended and others:
            ended += ray.wait(others, num_returns=len(others), timeout=0)[0]
        return ended

    def end(self, call: Any) -> End:
        if (task := call.task_id().hex()) in self._cancelled:
            self._cancelled.remove(task)
            ray_private.remove_note(_cancellation(task))
        try:
            value = ray.get(call)
            return End(cancelled=True) if isinstance(value, _Skipped) else End(value=value)
        except RayTaskError as error:
            return End(error=error.cause if isinstance(error.cause, Exception) else error)
        except RayError as error:  # the actor died or was killed for its memory, or its host was lost
            return End(error=error, died=True)

    def stop(self, worker: Any) -> None:
        ray.kill(worker)

    def hosts(self) -> dict[str, str]:
        return cluster.hosts()

    def room(self) -> Room:
        return Room(cluster.slots(self._num_gpus), cluster.most_slots(self._num_gpus))
