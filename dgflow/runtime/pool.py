"""A pool of Ray actors that each load what they need once and then work through items, two in flight each.

Retries are the driver's, not Ray's: an exception or the death of a worker counts against the item that was being worked on, the loss of a
node does not. An item that has failed `attempts` times is given up, the others go on, and the caller is told. Results pass through the
driver: large ones are committed to the store by the workers instead.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError

from dgflow.runtime.environment import without_gpus

log = logging.getLogger(__name__)

IN_FLIGHT = 2  # the second call waits in the worker's queue, so that it is never idle between items

# Ray's memory monitor killed the worker (OutOfMemoryError is no RayActorError), or a result went with its node.
_LOSSES = (RayActorError, RayTaskError, OutOfMemoryError, ObjectLostError)

Work = Callable[[Any], Any]


@dataclass
class Failure:
    """An item that was given up, with the error of its last attempt."""

    item: Any
    attempts: int
    error: BaseException


class _Worker:
    """The actor: keeps the function that `make` gave for the latest job."""

    def __init__(self, *, gpu: bool) -> None:
        if not gpu:
            without_gpus()
        self.job: int | None = None
        self.work: Work | None = None

    def ready(self) -> None:
        pass

    def run(self, job: int, make: list[ObjectRef[Callable[[], Work]]], item: Any) -> Any:
        if self.job != job or self.work is None:
            self.work = None  # frees the last job's networks before the next one's are loaded
            self.work, self.job = ray.get(make[0])(), job
        return self.work(item)


@dataclass
class _Member:
    actor: Any
    ready: Any
    node: str | None = None
    queue: deque[tuple[Any, Any]] = field(default_factory=deque)  # (object reference, item), the first is being worked on


class Pool:
    """Up to `max_workers` actors, each with `num_gpus` GPUs, or with a CPU and no GPU where that is 0.

    Those with GPUs ask for no CPU, so that a pool of each kind can stand side by side. Use as a context; leaving it gives the resources
    back.
    """

    def __init__(self, max_workers: int, *, num_gpus: float = 0.0, attempts: int = 3) -> None:
        self.max_workers = max_workers
        self.attempts = attempts
        self._gpu = num_gpus > 0
        self._actor = ray.remote(num_cpus=0 if self._gpu else 1, num_gpus=num_gpus, max_restarts=0, max_task_retries=0)(_Worker)
        self._members: list[_Member] = []
        self._jobs = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for member in self._members:
            ray.kill(member.actor)
        self._members = []

    def map(self, make: Callable[[], Work], items: Sequence[Any], on_result: Callable[[Any, Any], None]) -> list[Failure]:
        """Apply the function that `make()` gives to every item; `on_result(item, result)` is called here as each is done.

        Returns what was given up.
        """
        self._jobs += 1
        job, make_ref = self._jobs, [ray.put(make)]  # in a list: Ray then leaves fetching it to the worker, once a job
        waiting: deque[Any] = deque(items)
        attempts: dict[Any, int] = {}
        failures: list[Failure] = []
        open_items = len(waiting)
        while open_items:
            self._grow(open_items)
            for _ in range(IN_FLIGHT):  # one round for each place in the queues: idle workers are served before busy ones
                for member in self._members:
                    if waiting and member.node is not None and len(member.queue) < IN_FLIGHT:
                        item = waiting.popleft()
                        member.queue.append((member.actor.run.remote(job, make_ref, item), item))
            watched = [
                member.queue[0][0] if member.queue else member.ready for member in self._members if member.queue or member.node is None
            ]
            done, _ = ray.wait(watched, num_returns=1, timeout=5)
            for member in [member for member in self._members if (member.queue[0][0] if member.queue else member.ready) in done]:
                if not member.queue:
                    self._arrived(member)
                    continue
                reference, item = member.queue.popleft()
                try:
                    result = ray.get(reference)
                except _LOSSES as error:
                    counted = not self._node_lost(member, error)
                    attempts[item] = attempts.get(item, 0) + counted
                    if isinstance(error, RayActorError | OutOfMemoryError):
                        waiting.extendleft(queued for _, queued in member.queue)  # innocent: they had not begun
                        self._members.remove(member)
                    cause = error.cause if isinstance(error, RayTaskError) and isinstance(error.cause, Exception) else error
                    log.warning("attempt %d of %d at %s failed: %s", attempts[item], self.attempts, item, _first_line(cause))
                    hopeless = isinstance(cause, ValueError | FloatingPointError)  # it would only fail again
                    if hopeless or attempts[item] >= self.attempts:
                        failures.append(Failure(item, attempts[item], cause))
                        open_items -= 1
                    else:
                        waiting.append(item)
                else:
                    on_result(item, result)
                    open_items -= 1
        return failures

    def _grow(self, open_items: int) -> None:
        """Ask for as many workers as the open items can use; Ray grants them as the cluster has room."""
        while len(self._members) < min(self.max_workers, open_items):
            actor = self._actor.remote(gpu=self._gpu)
            self._members.append(_Member(actor, actor.ready.remote()))

    def _arrived(self, member: _Member) -> None:
        try:
            ray.get(member.ready)
            member.node = _node_of(member.actor)
        except _LOSSES as error:
            log.warning("a worker died before it was ready: %s", _first_line(error))
            self._members.remove(member)
            time.sleep(1)  # not a synchronisation: keeps a host that cannot start workers from being asked in a tight loop

    def _node_lost(self, member: _Member, error: BaseException) -> bool:
        """Whether the worker's node is gone, and with it the worker, or a result that had been made."""
        if not isinstance(error, ActorDiedError | ActorUnavailableError | ObjectLostError):
            return False
        return not any(node["Alive"] and node["NodeID"] == member.node for node in ray.nodes())


def _node_of(actor: Any) -> str:
    return ray.get(actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
