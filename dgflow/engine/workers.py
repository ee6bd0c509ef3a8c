"""The workers of a run, and the work that its steps give them."""

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

IN_TURN_SECONDS = 0.05  # timeout of each wait if two pools are at work

log = logging.getLogger(__name__)


class StepFailed(RuntimeError):
    """Raised if a step could not be completed; its committed parts stay."""


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
        """Raises StepFailed if an item was given up."""
        if not self.job.failures:
            return
        first, count = self.job.failures[0], len(self.job.failures)
        tried = "1 attempt" if first.attempts == 1 else f"{first.attempts} attempts"
        raise StepFailed(
            f"{self.step.title}: {count} of {len(self.job.items)} {self.unit}s could not be made; what is "
            f"committed stays. {self.unit.capitalize()} {first.item} after {tried}: {first.error}"
        ) from first.error


class Workers:
    """The workers of a run, connected on first use. Pools are kept between steps, and released while a
    training needs their CPUs and GPUs."""

    def __init__(
        self, store: ObjectStore, placement: Placement, progress: Progress, steps: Sequence[Step] = ()
    ) -> None:
        """Stores `steps`, the steps of the run in the order in which the workers serve them."""
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
        """Returns workers with a GPU, if there are GPUs, or workers for other work, which hosts without a GPU
        can do too."""
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
        """Releases, on a cluster, workers that have a GPU and no work, before work that needs none."""
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
        """Adds work as a `Spread`, which later `turn`s do: earlier steps of the recipe first."""
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
        """Waits a moment for the work of the steps, and continues it.

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
        """Waits for work that was added; the workers continue with the other steps as well.

        Raises StepFailed if an item was given up, or no worker could be started.
        """
        while not shared.over:
            self.turn()
        shared.check()

    def settle(self) -> None:
        """Finishes the work in progress, and starts no other: a shard may be half an hour of work."""
        for pool in self._pools.values():
            pool.stop()
        try:
            while any(pool.busy for pool in self._pools.values()):
                self.turn()
        except Exception as error:
            log.warning("what was at work could not be finished: %s", error)

    def give_back_idle(self) -> None:
        """Releases, on a cluster, the pool that has no work while the other one has some."""
        if any(pool.busy for pool in self._pools.values()):
            self._give_back()

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()
        self._pools = {}

    def _give_back(self) -> None:
        """Closes, on a cluster, the pools without work, because idle hosts cost money. On one machine they
        stay."""
        from dgflow.runtime.machine import elastic

        if elastic():
            for num_gpus in [number for number, pool in self._pools.items() if not pool.busy]:
                self._pools.pop(num_gpus).close()

    def _leave(self) -> None:
        """Records the work that is over."""
        from dgflow.runtime import metrics

        for each in [each for each in self._at_work if each[1].over]:
            self._at_work.remove(each)
            metrics.workers(each[1].step.name, 0)
