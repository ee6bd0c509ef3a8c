"""Doing what a plan says is missing, step by step. Ray and torch are imported only when something is to be done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from dgflow.steps.binding import Bound, Root, graph, is_fetched
from dgflow.steps.list_images import ListImages
from dgflow.steps.plan import StepPlan, look
from dgflow.steps.pretrained import Pretrained
from dgflow.steps.step import ResultStep, SampleStep, Spread, Step, TrainStep, here
from dgflow.store.identity import sha256_hex
from dgflow.store.objects import ObjectStore, StoreError
from dgflow.store.receipts import CorruptObject
from dgflow.store.step_store import StepStore

if TYPE_CHECKING:
    from dgflow.runtime.placement import Placement
    from dgflow.runtime.pool import Pool
    from dgflow.runtime.progress import Progress


class StepFailed(RuntimeError):
    """A step could not be completed; what it had committed stays."""


def execute(target: Step, store: ObjectStore, placement: Placement, progress: Progress) -> None:
    """Complete `target` and every step that it needs.

    Raises:
        StepFailed: a shard was given up, or training died again and again.
        ValueError, StoreError: input, configuration or storage; the message says what to do.
    """
    check_train_workers(target, placement.train_workers)
    root, known = Root(store), {}
    session = _Session(store, placement)
    lacking: list[Exception] = []  # what could not be had from outside: all of it is told at once
    try:
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
                with progress.step(state.step.title, state.unit, total=len(state.wanted), done=len(state.done)) as advance:
                    _complete(state, state.bound, steps, session, advance)
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
            raise StepFailed(f"{len(lacking)} things that are needed from outside cannot be had:\n{lines}") from lacking[0]
    finally:
        session.close()


def check_train_workers(target: Step, workers: int | None) -> None:
    """Raises ValueError where `workers` cannot share the batch of every training, before any of them starts."""
    trainings = [node.step for node in graph(target) if isinstance(node.step, TrainStep)]
    uneven = [step for step in trainings if workers and step.batch_size % workers]
    if uneven:
        found = ", ".join(f"{step.batch_size} ({step.title})" for step in uneven)
        raise ValueError(
            f"expected batch sizes that {workers} training workers can share, found {found}; "
            "give a --train-workers that divides them, or leave it out"
        )


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
    """Ray, connected when first needed; pools are kept from step to step and given up while training needs their CPUs and GPUs."""

    def __init__(self, store: ObjectStore, placement: Placement) -> None:
        self.store, self.placement = store, placement
        self._pools: dict[float, Pool] = {}  # by the GPUs of a worker

    def connect(self) -> None:
        from dgflow.runtime.cluster import connect, resolved

        connect(self.store)
        self.placement = resolved(self.placement)

    def pool(self, *, gpu: bool) -> Pool:
        """Workers for work that a GPU does, where they have some, or for other work, which would leave the CPUs without a GPU idle."""
        if not self._pools:
            self.connect()
        from dgflow.runtime.cluster import slots
        from dgflow.runtime.pool import Pool

        num_gpus = (self.placement.num_gpus or 0.0) if gpu else 0.0
        if num_gpus not in self._pools:
            self._pools[num_gpus] = Pool(self.placement.workers or slots(num_gpus), num_gpus=num_gpus)
        return self._pools[num_gpus]

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()
        self._pools = {}


def _complete(state: StepPlan, bound: Bound, steps: StepStore, session: _Session, advance: Callable[[int], None]) -> None:
    step = state.step
    if isinstance(step, SampleStep):
        pool = session.pool(gpu=step.network_evaluations(1) > 0)
        failures = pool.map(partial(shard_work, step, steps, bound), state.missing, lambda _number, _seconds: advance(1))
        if failures:
            first = failures[0]
            raise StepFailed(
                f"{step.title}: {len(failures)} of {len(state.missing)} shards could not be built; the others are committed. "
                f"Shard {first.item} after {first.attempts} attempts: {first.error}"
            ) from first.error
    elif isinstance(step, TrainStep):
        _train(step, steps, bound, session, state, advance)
    else:
        make_result(step, steps, bound, session.store, partial(_over_pool, session, step))
        advance(1)


def _over_pool(
    session: _Session, step: Step, make: Callable[[], Callable[[Any], Any]], items: Sequence[Any], take: Callable[[Any, Any], None]
) -> None:
    """A `Spread` over the workers."""
    failures = session.pool(gpu=False).map(make, items, take)
    if failures:
        raise StepFailed(f"{step.title}: part {failures[0].item} failed {failures[0].attempts} times: {failures[0].error}") from failures[
            0
        ].error


def shard_work(step: SampleStep, steps: StepStore, inputs: Bound) -> Callable[[int], float]:
    """What a worker of the pool does: load once, then build and commit one shard after another; gives the seconds that each took."""
    from dgflow.runtime.environment import attempt, device_name, versions

    build = step.shard_builder(inputs)
    device = device_name()

    def work(number: int) -> float:
        own = attempt()
        steps.note_attempt("shards", number, own)
        began = time.monotonic()
        try:
            start, stop = step.shard_range(number)
            columns = build(start, stop)
            seconds = time.monotonic() - began
            steps.write_shard(
                number,
                columns,
                start=start,
                stop=start + len(columns["index"]),
                inputs=inputs.digests,
                seconds=seconds,
                device=device,
                versions=versions(),
            )
        except Exception as error:
            steps.note_attempt("shards", number, own | {"failed": time.time(), "error": str(error)})
            raise
        return seconds

    return work


def _train(step: TrainStep, steps: StepStore, bound: Bound, session: _Session, state: StepPlan, advance: Callable[[int], None]) -> None:
    session.close()
    session.connect()
    from dgflow.runtime.train import TrainingFailed, fit

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
        )
    except TrainingFailed as error:
        raise StepFailed(str(error)) from error


def make_result(step: Step, steps: StepStore, bound: Bound, store: ObjectStore, spread: Spread = here) -> None:
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
    done = steps.done("shards", bound.digests)
    for part in state.node.slices:
        if steps.manifest(part.start, part.stop, bound.digests) is not None:
            continue
        keys = [done[number] for number in state.step.shards_of(part.start, part.stop)]
        if len(keys) and (end := steps.receipt(keys[-1]).stop) is not None and end < part.stop:
            raise ValueError(f"{state.step.title} ends after {end:,} samples, but {part.stop:,} are asked for; take a smaller slice")
        steps.seal(part.start, part.stop, bound.digests, keys, state.step.remarks(bound))
