"""Doing what a plan says is missing, step by step.

Ray and torch are imported only when something is to be done.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from dgflow.engine.plan import StepPlan, look
from dgflow.engine.root import Root
from dgflow.engine.shard_work import shard_work
from dgflow.specs.bound import Bound
from dgflow.specs.graph import graph, is_fetched
from dgflow.specs.step import ResultStep, SampleStep, Spread, Step, TrainStep, here
from dgflow.steps.pretrained import Pretrained
from dgflow.steps.sources.list_images import ListImages
from dgflow.store.identity import sha256_hex
from dgflow.store.objects import ObjectStore, StoreError
from dgflow.store.receipts import CorruptObject
from dgflow.store.step_store import StepStore

if TYPE_CHECKING:
    from dgflow.runtime.placement import Placement
    from dgflow.runtime.pool.pool import Pool
    from dgflow.runtime.progress import Progress


class StepFailed(RuntimeError):
    """A step could not be completed; what it had committed stays."""


def execute(target: Step, store: ObjectStore, placement: Placement, progress: Progress) -> None:
    """Complete `target` and every step that it needs.

    Raises:
        StepFailed: a shard was given up, or training died again and again.
        ValueError, StoreError: input, configuration or storage; the message says what to do.
    """
    root, known = Root(store), {}
    session = _Session(store, placement, progress)
    lacking: list[Exception] = []  # what could not be had from outside: all of it is told at once
    try:
        session.check_root()
        for node in graph(target):
            if lacking and not is_fetched(node.step):
                break
            state = look(root, node, known)
            steps = root.steps(node.step)
            steps.declare(node.step.document())
            if state.complete:
                if isinstance(node.step, ListImages):
                    node.step.check_unchanged(steps.read(steps.receipt(state.done[0])), store)
                progress.reused(state.step.title, len(state.wanted), state.unit)
                continue
            if state.bound is None and lacking:
                continue  # reads what could not be had
            assert state.bound is not None, f"{node.step.name} is run before what it reads"
            try:
                with progress.step(
                    state.step.title, state.unit, total=len(state.wanted), done=len(state.done)
                ) as advance:
                    _complete(state, state.bound, steps, session, _gauged(state, advance))
            except (ValueError, OSError, StoreError, CorruptObject) as error:
                if not is_fetched(node.step):
                    raise
                lacking.append(error)
                continue
            _seal(state, state.bound, steps)
            known[node.step.fingerprint] = state.bound
        if len(lacking) == 1:
            raise lacking[0]
        if lacking:
            lines = "\n".join(f"- {error}" for error in lacking)
            raise StepFailed(
                f"{len(lacking)} things that are needed from outside cannot be had:\n{lines}"
            ) from lacking[0]
    finally:
        session.close()


def result_of(target: ResultStep, store: ObjectStore) -> bytes:
    """The file that `execute` made of a step. Raises ValueError while it is not there."""
    root, known = Root(store), {}
    for node in graph(target):
        state = look(root, node, known)
    if not state.complete:
        raise ValueError(f"{target.title}: expected its result in {store.url}, found none; run it first")
    steps = root.steps(target)
    return steps.read(steps.receipt(state.done[0]))


class _Session:
    """Ray, connected when first needed; pools are kept from step to step and given up while training needs
    their CPUs and GPUs."""

    def __init__(self, store: ObjectStore, placement: Placement, progress: Progress) -> None:
        self.store, self.placement, self.progress = store, placement, progress
        self._pools: dict[float, Pool] = {}  # by the GPUs of a worker

    def check_root(self) -> None:
        """Refuse a root that other hosts of a cluster cannot see, before anything is put into it.

        Raises as `cluster.connect`.
        """
        if not self.store.shared and os.environ.get("RAY_ADDRESS"):
            self.connect()

    def connect(self) -> None:
        from dgflow.runtime.cluster import connect, resolved

        connect(self.store)
        self.placement = resolved(self.placement)

    def pool(self, *, gpu: bool) -> Pool:
        """Workers for work that a GPU does, where they have some, or for other work, which would leave the
        CPUs without a GPU idle.

        On one machine both kinds stay. On a cluster one kind is given back before the other is asked for:
        hosts whose workers have nothing to do are paid for.
        """
        if not self._pools:
            self.connect()
        from dgflow.runtime.cluster import elastic
        from dgflow.runtime.pool.pool import Pool

        num_gpus = (self.placement.num_gpus or 0.0) if gpu else 0.0
        if elastic() and num_gpus not in self._pools:
            self.close()
        if num_gpus not in self._pools:
            tell = (
                self.progress.tell if elastic() else None
            )  # on one machine they are what was asked for, from the beginning
            self._pools[num_gpus] = Pool(self.placement.workers, num_gpus=num_gpus, tell=tell)
        return self._pools[num_gpus]

    def release_gpus(self) -> None:
        """Before work that needs no GPU: on a cluster, give back the workers that have some."""
        if any(self._pools):  # only then Ray is there to be asked what it is
            from dgflow.runtime.cluster import elastic

            if elastic():
                self.close()

    def spread(
        self,
        step: Step,
        unit: str,
        gpu: bool,
        make: Callable[[], Callable[[Any], Any]],
        items: Sequence[Any],
        take: Callable[[Any, Any], None],
    ) -> None:
        """A `Spread` over the workers.

        Raises StepFailed where an item was given up, or no worker could be started.
        """
        from dgflow.runtime import metrics
        from dgflow.runtime.pool.pool import WorkersFailed

        pool = self.pool(gpu=gpu)

        def on_result(item: Any, result: Any) -> None:
            metrics.workers(step.name, pool.workers)
            take(item, result)

        try:
            failures = pool.map(make, items, on_result, title=step.title, unit=unit)
        except WorkersFailed as error:
            raise StepFailed(f"{step.title}: {error}") from error
        finally:
            metrics.workers(step.name, 0)
        if failures:
            first = failures[0]
            raise StepFailed(
                f"{step.title}: {len(failures)} of {len(items)} {unit}s could not be made; what is committed "
                f"stays. {unit.capitalize()} {first.item} after {first.attempts} attempts: {first.error}"
            ) from first.error

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()
        self._pools = {}


def _complete(
    state: StepPlan, bound: Bound, steps: StepStore, session: _Session, advance: Callable[[int], None]
) -> None:
    step = state.step
    if isinstance(step, SampleStep):
        gpu = step.network_evaluations(1) > 0
        work = partial(shard_work, step, steps, bound)
        session.spread(step, "shard", gpu, work, state.missing, lambda _number, _seconds: advance(1))
    elif isinstance(step, TrainStep):
        _train(step, steps, bound, session, state, advance)
    else:
        session.release_gpus()
        make_result(step, steps, bound, session.store, partial(session.spread, step, "part", False))
        advance(1)


def _gauged(state: StepPlan, advance: Callable[[int], None]) -> Callable[[int], None]:
    """`advance` that also keeps Ray's metrics of how far the step is."""
    from dgflow.runtime import metrics

    done = len(state.done)

    def both(count: int) -> None:
        nonlocal done
        advance(count)
        done += count
        metrics.parts(state.step.name, done, len(state.wanted))

    return both


def _train(
    step: TrainStep,
    steps: StepStore,
    bound: Bound,
    session: _Session,
    state: StepPlan,
    advance: Callable[[int], None],
) -> None:
    session.close()
    session.connect()
    from dgflow.runtime.training.fit import TrainingFailed, fit

    seen = len(state.done)

    def on_epoch(newest: int) -> None:
        nonlocal seen
        advance(newest - seen)
        seen = newest

    try:
        fit(
            partial(step.training_task, bound),
            steps,
            bound.digests,
            epochs=step.epochs,
            batch_size=step.batch_size,
            placement=session.placement,
            on_epoch=on_epoch,
            tell=session.progress.tell,
        )
    except TrainingFailed as error:
        raise StepFailed(str(error)) from error


def make_result(
    step: Step, steps: StepStore, bound: Bound, store: ObjectStore, spread: Spread = here
) -> None:
    """Make and commit the one result of a step that is neither samples nor epochs."""
    from dgflow.runtime.environment import versions

    began = time.monotonic()
    if isinstance(step, Pretrained):
        data, suffix = step.fetch(bound, store), ".safetensors"
    else:
        assert isinstance(step, ResultStep), step
        data, suffix = step.compute(bound, spread, store), step.suffix
    steps.commit(
        "results",
        0,
        data,
        suffix=suffix,
        rows_sha256=sha256_hex(data),
        inputs=bound.digests,
        seconds=time.monotonic() - began,
        device="cpu",
        versions=versions(),
    )


def _seal(state: StepPlan, bound: Bound, steps: StepStore) -> None:
    """Write the manifests of the slices that the recipe takes."""
    if not isinstance(state.step, SampleStep):
        return
    for part in state.node.slices:
        if steps.manifest(part.start, part.stop, bound.digests) is not None:
            continue
        keys = [
            steps.key("shards", number, bound.digests)
            for number in state.step.shards_of(part.start, part.stop)
        ]
        if len(keys) and (end := steps.receipt(keys[-1]).stop) is not None and end < part.stop:
            raise ValueError(
                f"{state.step.title} ends after {end:,} samples, but {part.stop:,} are asked for; take a "
                "smaller slice"
            )
        steps.seal(part.start, part.stop, bound.digests, keys, state.step.remarks(bound))
