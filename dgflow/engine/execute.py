"""Completing a recipe in a root, step by step.

Ray and torch are imported only when there is something to do.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from dgflow.engine.networks import check_built, check_sizes
from dgflow.engine.plan import StepPlan, look, plan
from dgflow.engine.receipt_warnings import WarnsOnce
from dgflow.engine.root import Root
from dgflow.engine.shard_work import shard_work
from dgflow.extras import installed, require
from dgflow.specs.bound import Bound
from dgflow.specs.graph import Node, graph
from dgflow.specs.step import FileStep, ResultStep, SampleStep, Spread, Step, Target, here
from dgflow.specs.train_step import TrainStep
from dgflow.store.identity import sha256_hex
from dgflow.store.objects import ObjectStore, StoreError
from dgflow.store.receipts import CorruptObject
from dgflow.store.step_store import StepStore

if TYPE_CHECKING:
    from dgflow.runtime.placement import Placement
    from dgflow.runtime.pool.pool import Pool
    from dgflow.runtime.progress import Advance, Progress


TIMED = 4  # receipts of a step that an estimate of the time left reads


_log = logging.getLogger(__name__)


class StepFailed(RuntimeError):
    """A step could not be completed; its committed parts stay."""


def execute(target: Target, store: ObjectStore, placement: Placement, progress: Progress) -> None:
    """Complete `target` and every step that it needs.

    Raises:
        StepFailed: a shard was given up, or training died again and again.
        ValueError, StoreError: input, configuration or storage; the message says what to do.
    """
    session, nodes = _Session(store, placement, progress), graph(target)
    try:
        check_sizes(nodes)
        _check_training(target, store)
        session.check_root()
        with progress.run(nodes, store):
            _execute(nodes, store, session)
    finally:
        session.close()


def _check_training(target: Target, store: ObjectStore) -> None:
    """Refuse a recipe that has something to train where Ray is not installed, before anything is made."""
    if not installed("ray"):
        for state in plan(target, store):
            if isinstance(state.step, TrainStep) and not state.complete:
                require("ray", f"{state.step.title}: training")


def _execute(nodes: Sequence[Node], store: ObjectStore, session: _Session) -> None:
    root, bounds, progress = Root(store), {}, session.progress
    names = {node.step.name for node in nodes}
    built = False  # all networks, without their weights, which is done before the first part is made
    lacking: list[Exception] = []  # files from outside that cannot be had: all are reported together
    for node in nodes:
        step = node.step
        if lacking and not step.is_fetched:
            break
        state = look(root, node, bounds)
        step_store = root.step_store(step)
        step_store.declare(step.document(), step.described(names))
        if state.complete:
            step.check_unchanged(partial(_first_file, state, step_store), store)
            progress.reused(step, len(state.wanted), partial(_seconds, state, step_store))
            continue
        if state.bound is None and lacking:
            continue  # reads a file that cannot be had
        if not built:
            check_built(nodes)
            built = True
        assert state.bound is not None, f"{step.name} is run before its inputs"
        session.check_machine()
        for name, choice in state.bound.choices.items():
            progress.say(f"{step.title}: {name}: {choice}")
        try:
            known, done = _seconds(state, step_store), len(state.done)
            with progress.step(step, total=len(state.wanted), done=done, known=known) as advance:
                _complete(state, state.bound, step_store, session, _gauged(state, advance))
        except (ValueError, OSError, StoreError, CorruptObject) as error:
            if not step.is_fetched:
                raise
            lacking.append(error)
            continue
        _seal(state, state.bound, step_store)
        bounds[node.key] = state.bound
    if len(lacking) == 1:
        raise lacking[0]
    if lacking:
        lines = "\n".join(f"- {error}" for error in lacking)
        raise StepFailed(
            f"{len(lacking)} things that are needed from outside cannot be had:\n{lines}"
        ) from lacking[0]


def result_of(target: ResultStep, store: ObjectStore) -> bytes:
    """The file that `execute` made of a step. Raises ValueError while there is none."""
    root, known = Root(store), {}
    for node in graph(target):
        state = look(root, node, known)
    if not state.complete:
        raise ValueError(f"{target.title}: expected its result in {store.url}, found none; run it first")
    return _first_file(state, root.step_store(target))


def _first_file(state: StepPlan, step_store: StepStore) -> bytes:
    return step_store.read(step_store.receipt(state.done[state.wanted[0]]))


def _seconds(state: StepPlan, step_store: StepStore) -> list[float]:
    """The seconds of the last few committed parts. Empty where their receipts cannot be read: an estimate is
    not worth an error."""
    keys = [state.done[number] for number in sorted(state.done)[-TIMED:]]
    try:
        return [receipt.seconds for receipt in step_store.receipts(keys)]
    except (StoreError, CorruptObject, FileNotFoundError):
        return []


class _Session:
    """The workers of a run, connected to when first needed. Pools are kept from step to step, and given back
    while a training needs their CPUs and GPUs."""

    def __init__(self, store: ObjectStore, placement: Placement, progress: Progress) -> None:
        self.store, self.placement, self.progress = store, placement, progress
        self._pools: dict[float, Pool] = {}  # by the GPUs of a worker
        self._checked = False

    def check_root(self) -> None:
        """Refuse a root that other hosts of a cluster cannot see, before anything is put into it.

        Raises as `cluster.connect`.
        """
        if not self.store.shared and os.environ.get("RAY_ADDRESS"):
            self.check_machine()
            self.connect()

    def check_machine(self) -> None:
        """As `backend.check`, once."""
        if not self._checked:
            self._checked = True
            from dgflow.runtime import backend

            backend.check()

    def connect(self) -> None:
        from dgflow.runtime import backend

        self.placement = backend.connect(self.store, self.placement)

    def pool(self, *, gpu: bool) -> Pool:
        """Workers that have a GPU, where there are GPUs, or workers for other work, for which hosts without a
        GPU do too.

        On one machine both kinds stay. On a cluster one kind is given back before the other is requested:
        idle hosts cost money.
        """
        if not self._pools:
            self.connect()
        from dgflow.runtime.machine import elastic
        from dgflow.runtime.pool.pool import Pool

        num_gpus = (self.placement.num_gpus or 0.0) if gpu else 0.0
        if elastic() and num_gpus not in self._pools:
            self.close()
        if num_gpus not in self._pools:
            tell = self.progress.tell if elastic() else None  # on one machine all workers start at once
            self._pools[num_gpus] = Pool(self.placement.workers, num_gpus=num_gpus, tell=tell)
        return self._pools[num_gpus]

    def release_gpus(self) -> None:
        """On a cluster, give back the workers that have a GPU, before work that needs none."""
        from dgflow.runtime.machine import elastic

        if any(self._pools) and elastic():
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

        pool, done = self.pool(gpu=gpu), 0

        def on_result(item: Any, result: Any) -> None:
            nonlocal done
            metrics.workers(step.name, pool.workers)
            if unit == "shard":
                self.progress.workers(pool.workers)
            else:
                done += 1
                self.progress.pieces(done, len(items))
            take(item, result)

        try:
            failures = pool.map(make, items, on_result, title=step.title, unit=unit)
        except WorkersFailed as error:
            raise StepFailed(f"{step.title}: {error}") from error
        finally:
            metrics.workers(step.name, 0)
        if failures:
            first = failures[0]
            tried = "1 attempt" if first.attempts == 1 else f"{first.attempts} attempts"
            raise StepFailed(
                f"{step.title}: {len(failures)} of {len(items)} {unit}s could not be made; what is committed "
                f"stays. {unit.capitalize()} {first.item} after {tried}: {first.error}"
            ) from first.error

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()
        self._pools = {}


def _complete(
    state: StepPlan, bound: Bound, step_store: StepStore, session: _Session, advance: Advance
) -> None:
    match state.step:
        case SampleStep() as step:
            gpu = step.network_evaluations(1) > 0
            step.check_source(bound)
            if state.copies:
                session.progress.say(f"{step.title}: {state.reason}")
            first = state.wanted[0] if state.wanted[0] in state.missing else None
            work = partial(shard_work, step, step_store, bound, first, state.copies)
            tell = WarnsOnce(step, step_store, "shards", bound, session.progress.say)

            def take(number: int, seconds: float) -> None:
                tell(number)
                advance(1, seconds)

            session.spread(step, "shard", gpu, work, state.missing, take)
        case TrainStep() as step:
            _train(step, step_store, bound, session, len(state.done), advance)
        case step:
            gpu = step.network_evaluations(1) > 0
            if not gpu:
                session.release_gpus()
            spread = partial(session.spread, step, "part", gpu)
            make_result(step, step_store, bound, session.store, spread)
            advance(1)


def _gauged(state: StepPlan, advance: Advance) -> Advance:
    """`advance` that also updates Ray's metrics of the step's progress."""
    from dgflow.runtime import metrics

    done = len(state.done)

    def both(count: int, seconds: float | None = None) -> None:
        nonlocal done
        advance(count, seconds)
        done += count
        metrics.parts(state.step.name, done, len(state.wanted))

    return both


def _train(
    step: TrainStep, step_store: StepStore, bound: Bound, session: _Session, done: int, advance: Advance
) -> None:
    session.close()
    session.connect()
    from dgflow.runtime.training.fit import TrainingFailed, fit

    warn = WarnsOnce(step, step_store, "epochs", bound, session.progress.say)

    def on_epoch(newest: int) -> None:
        nonlocal done
        warn(newest)
        advance(newest - done)
        done = newest

    try:
        fit(
            partial(step.training_task, bound),
            step_store,
            bound.digests,
            epochs=step.epochs,
            batch_size=step.batch_size,
            placement=session.placement,
            on_epoch=on_epoch,
            tell=session.progress.tell,
            on_note=session.progress.epoch,
        )
    except TrainingFailed as error:
        raise StepFailed(str(error)) from error


def make_result(
    step: Step, step_store: StepStore, bound: Bound, store: ObjectStore, spread: Spread = here
) -> None:
    """Make and commit the file of a step that makes one."""
    from dgflow.runtime.environment import versions

    assert isinstance(step, FileStep), step
    began = time.monotonic()
    data = step.compute(bound, spread, store)
    step_store.commit(
        step.folder,
        0,
        data,
        suffix=step.suffix,
        rows_sha256=sha256_hex(data),
        inputs=bound.digests,
        seconds=time.monotonic() - began,
        device="cpu",
        versions=versions(),
    )


def _seal(state: StepPlan, bound: Bound, step_store: StepStore) -> None:
    """Write the manifests of the slices that the recipe takes."""
    for part in state.node.slices:
        if step_store.manifest(part.start, part.stop, bound.digests) is not None:
            continue
        keys = [step_store.key("shards", number, bound.digests) for number in part.shards]
        if len(keys) and (end := step_store.receipt(keys[-1]).stop) is not None and end < part.stop:
            raise ValueError(
                f"{state.step.title} ends after {end:,} samples, but {part.stop:,} are asked for; take a "
                "smaller slice"
            )
        step_store.seal(part.start, part.stop, bound.digests, keys, part.step.remarks(bound))
        for doubt in part.step.doubts(part, bound):
            _log.warning("%s", doubt)
