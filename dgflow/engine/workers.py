"""The workers of a run, and the work of its steps that they do."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dgflow.specs.step import Step
from dgflow.store.objects import ObjectStore

if TYPE_CHECKING:
    from dgflow.runtime.placement import Placement
    from dgflow.runtime.pool.pool import Job, Pool
    from dgflow.runtime.progress import Progress

IN_TURN_SECONDS = 0.05  # timeout of each wait if two pools are busy

log = logging.getLogger(__name__)


class StepFailed(RuntimeError):
    """Raised if a step could not be completed; its committed parts are kept."""


@dataclass(frozen=True)
class Shared:
    """Items of a step that are distributed over the workers."""

    step: Step
    unit: str
    job: Job

    @property
    def over(self) -> bool:
        return self.job.over

    def check(self) -> None:
        """Raises StepFailed if an item used up its retry budget."""
        if not self.job.failures:
            return
        first, count = self.job.failures[0], len(self.job.failures)
        tried = "1 attempt" if first.attempts == 1 else f"{first.attempts} attempts"
        raise StepFailed(
            f"{self.step.title}: {count} of {len(self.job.items)} {self.unit}s could not be made; committed "
            f"{self.unit}s are kept. {self.unit.capitalize()} {first.item} after {tried}: {first.error}"
        ) from first.error


class Workers:
    """The workers of a run, started on first use. Pools are kept between steps, and closed while a training
    needs their CPUs and GPUs."""

    def __init__(
        self, store: ObjectStore, placement: Placement, progress: Progress, steps: Sequence[Step] = ()
    ) -> None:
        """Takes `steps`, the steps of the run in the order in which the workers serve them."""
        self.store, self.placement, self.progress = store, placement, progress
        self._places = {id(step): place for place, step in enumerate(steps)}
        self._pools: dict[float, Pool] = {}  # by the GPUs per worker
        self._at_work: list[tuple[Pool, Shared]] = []
        self._checked = False

    def check_root(self) -> None:
        """Refuses a root that other hosts of a cluster cannot see, before anything is written to it.

        Raises as `cluster.connect` does.
        """
        if not self.store.shared and os.environ.get("RAY_ADDRESS"):
            self.check_machine()
            self.connect()

    def check_machine(self) -> None:
        """Checks the machine as `backend.check` does, once."""
        if not self._checked:
            self._checked = True
            from dgflow.runtime import backend

            backend.check()

    def connect(self) -> None:
        from dgflow.runtime import backend

        self.placement = backend.connect(self.store, self.placement)

    def pool(self, *, gpu: bool) -> Pool:
        """Returns the pool of workers with a GPU each, if `gpu` and there are GPUs; otherwise the pool of
        workers with a CPU each, which also runs on hosts without a GPU."""
        if not self._pools:
            self.connect()
        from dgflow.runtime.machine import elastic
        from dgflow.runtime.pool.pool import Pool

        num_gpus = (self.placement.num_gpus or 0.0) if gpu else 0.0
        if num_gpus not in self._pools:
            self._give_back()
            each = f"{num_gpus:g} GPU" if num_gpus else "1 CPU"

            def tell(line: str) -> None:
                self.progress.tell(f"{line} ({each} each)")

            # On one machine all workers start at once.
            self._pools[num_gpus] = Pool(
                self.placement.workers, num_gpus=num_gpus, tell=tell if elastic() else None
            )
        return self._pools[num_gpus]

    def release_gpus(self) -> None:
        """Releases idle workers with a GPU on a cluster, before work that needs no GPU."""
        if any(self._pools):
            self._give_back()

    def add(
        self,
        step: Step,
        unit: str,
        gpu: bool,
        make: Callable[[], Callable[[Any], Any]],
        items: Sequence[Any],
        take: Callable[[Any, Any], None],
    ) -> Shared:
        """Queues items for the workers, with the arguments of `Spread`. Later calls of `turn` process them,
        those of earlier steps of the recipe first."""
        from dgflow.runtime import metrics

        pool, done = self.pool(gpu=gpu), 0

        def on_result(item: Any, result: Any) -> None:
            nonlocal done
            metrics.workers(step.name, pool.workers)
            if unit == "shard":
                self.progress.workers(step, pool.workers)
            else:
                done += 1
                self.progress.pieces(step, done, len(items))
            take(item, result)

        place = self._places.get(id(step), 0)
        job = pool.add(make, items, on_result, title=step.title, unit=unit, place=place)
        shared = Shared(step, unit, job)
        self._at_work.append((pool, shared))
        return shared

    def turn(self) -> None:
        """Assigns items to workers and collects results, for about a second.

        Raises StepFailed if no worker could be started.
        """
        from dgflow.runtime.pool.pool import POLL_SECONDS, WorkersFailed

        busy = [pool for pool in self._pools.values() if pool.busy]
        for pool in busy:
            try:
                pool.turn(POLL_SECONDS if len(busy) == 1 else IN_TURN_SECONDS)
            except WorkersFailed as error:
                title = next(shared.step.title for own, shared in self._at_work if own is pool)
                raise StepFailed(f"{title}: {error}") from error
            finally:
                self._leave()

    def finish(self, shared: Shared) -> None:
        """Waits until the items of `shared` are done; the workers continue with the other steps as well.

        Raises StepFailed if an item used up its retry budget, or no worker could be started.
        """
        while not shared.over:
            self.turn()
        shared.check()

    def settle(self) -> None:
        """Finishes the items in progress and starts no others: a shard may be half an hour of work."""
        for pool in self._pools.values():
            pool.stop()
        try:
            while any(pool.busy for pool in self._pools.values()):
                self.turn()
        except Exception as error:
            log.warning("the shards in progress could not be finished: %s", error)

    def give_back_idle(self) -> None:
        """Releases the idle pool on a cluster while the other pool is busy."""
        if any(pool.busy for pool in self._pools.values()):
            self._give_back()

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()
        self._pools = {}

    def _give_back(self) -> None:
        """Closes idle pools on a cluster, because idle hosts cost money. On one machine they are kept."""
        from dgflow.runtime.machine import elastic

        if elastic():
            for num_gpus in [number for number, pool in self._pools.items() if not pool.busy]:
                self._pools.pop(num_gpus).close()

    def _leave(self) -> None:
        """Removes completed work from the work in progress."""
        from dgflow.runtime import metrics

        for each in [each for each in self._at_work if each[1].over]:
            self._at_work.remove(each)
            metrics.workers(each[1].step.name, 0)
