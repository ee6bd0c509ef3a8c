"""Execution of a recipe in a root: starts each step once its inputs are complete, and commits its parts.

Ray and torch are imported only if there is work to do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from dgflow.engine.networks import check_built, check_sizes
from dgflow.engine.plan import StepPlan, plan, step_plan
from dgflow.engine.receipt_warnings import WarnsOnce
from dgflow.engine.root import Root
from dgflow.engine.shard_work import shard_work
from dgflow.engine.workers import Shared, StepFailed, Workers
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
    from dgflow.runtime.progress import Advance, Progress


TIMED = 4  # number of receipts of a step from which the remaining time is estimated


_log = logging.getLogger(__name__)


def execute(target: Target, store: ObjectStore, placement: Placement, progress: Progress) -> None:
    """Completes `target` and every step that it needs.

    Raises:
        StepFailed: a shard failed too often, or training died repeatedly.
        ValueError: invalid input or configuration.
        StoreError: the root cannot be read or written.
    """
    nodes = graph(target)
    workers = Workers(store, placement, progress, [node.step for node in nodes])
    try:
        check_sizes(nodes)
        _check_training(target, store)
        workers.check_root()
        with progress.run(nodes, store):
            _Run(nodes, store, workers).complete()
    finally:
        workers.close()


def _check_training(target: Target, store: ObjectStore) -> None:
    """Raises an error before any work if the recipe needs a training and Ray is not installed."""
    if not installed("ray"):
        for state in plan(target, store):
            if isinstance(state.step, TrainStep) and not state.complete:
                require("ray", f"{state.step.title}: training")


@dataclass(frozen=True)
class _AtWork:
    """A step whose shards the workers are building."""

    state: StepPlan
    bound: Bound
    step_store: StepStore
    shared: Shared
    shown: ExitStack  # the context of its progress display


class _Run:
    """The steps of a recipe; several can be in progress at once.

    - A step starts as soon as its inputs are complete.
    - Shards of several steps are built concurrently. A worker takes a shard of the first step that has one
      waiting, so no worker is idle while the last shards of a step are built.
    - A result is computed in the driver. While the driver waits for its own pieces, it continues to serve the
      workers.
    - A training needs the workers' CPUs and GPUs, so it starts only when no shards are in progress.
    """

    def __init__(self, nodes: Sequence[Node], store: ObjectStore, workers: Workers) -> None:
        self.nodes, self.store, self.workers, self.progress = nodes, store, workers, workers.progress
        self.root, self.bounds = Root(store), {}
        self.names = {node.step.name for node in nodes}
        self.waiting = list(nodes)
        self.states: dict[str, StepPlan] = {}  # by the node's key; only of steps whose inputs are complete
        self.at_work: list[_AtWork] = []
        self.complete_keys: set[str] = set()
        self.networks_checked = False  # by building them without weights, before the first part is built
        # One error per unavailable external file; all are reported together.
        self.unavailable: list[Exception] = []

    def complete(self) -> None:
        """Completes the recipe. Raises as `execute` does, after work in progress has finished."""
        with ExitStack() as shown:
            try:
                while self._begin(shown) or self._serve():
                    pass
            except Exception:
                self.workers.settle()
                raise
        if len(self.unavailable) == 1:
            raise self.unavailable[0]
        if self.unavailable:
            lines = "\n".join(f"- {error}" for error in self.unavailable)
            raise StepFailed(
                f"{len(self.unavailable)} external inputs are unavailable:\n{lines}"
            ) from self.unavailable[0]

    def _begin(self, shown: ExitStack) -> bool:
        """Starts the first step that is ready, and completes it unless the workers build its shards. False if
        no step is ready."""
        for node in self.waiting:
            ready = self.complete_keys.issuperset(node.reads.values())
            if not ready or (self.unavailable and not node.step.is_fetched):
                continue
            state = self._state(node)
            if isinstance(node.step, TrainStep) and self.at_work and not state.complete:
                continue
            self.waiting.remove(node)
            if state.complete:
                self._reuse(state)
            elif (begun := self._work(state)) is not None:
                self.at_work.append(begun)
                shown.push(begun.shown)
            return True
        return False

    def _serve(self) -> bool:
        """Collects the workers' results, and seals the steps that they complete. False if no step is in
        progress."""
        if not self.at_work:
            return False
        self.workers.give_back_idle()
        self.workers.turn()
        for each in [each for each in self.at_work if each.shared.over]:
            self.at_work.remove(each)
            with each.shown:
                each.shared.check()
            self._seal(each.state, each.bound, each.step_store)
        return True

    def _state(self, node: Node) -> StepPlan:
        if node.key not in self.states:
            state = self.states[node.key] = step_plan(self.root, node, self.bounds)
            self.root.step_store(node.step).declare(node.step.document(), node.step.described(self.names))
            return state
        return self.states[node.key]

    def _reuse(self, state: StepPlan) -> None:
        step, step_store = state.step, self.root.step_store(state.step)
        step.check_unchanged(partial(_first_file, state, step_store), self.store)
        self.progress.reused(step, len(state.wanted), partial(_seconds, state, step_store))
        self.complete_keys.add(state.node.key)

    def _work(self, state: StepPlan) -> _AtWork | None:
        """Starts or does the work of a step; returns None if no shards are left in progress."""
        step, bound, step_store = state.step, state.bound, self.root.step_store(state.step)
        if not self.networks_checked:
            check_built(self.nodes)
            self.networks_checked = True
        assert bound is not None, f"{step.name} is run before its inputs"
        self.workers.check_machine()
        for name, choice in bound.choices.items():
            self.progress.say(f"{step.title}: {name}: {choice}")
        try:
            begun = self._begun(state, bound, step_store)
        except (ValueError, OSError, StoreError, CorruptObject) as error:
            if not step.is_fetched:
                raise
            self.unavailable.append(error)
            return None
        if begun is None:
            self._seal(state, bound, step_store)
        return begun

    def _begun(self, state: StepPlan, bound: Bound, step_store: StepStore) -> _AtWork | None:
        """Starts or does the work of a step, without sealing it; returns None if the work is done."""
        step, seconds, done = state.step, _seconds(state, step_store), len(state.done)
        with ExitStack() as shown:
            display = self.progress.step(step, total=len(state.wanted), done=done, earlier=seconds)
            advance = _gauged(state, shown.enter_context(display))
            match step:
                case SampleStep():
                    shared = _shards(state, step, step_store, bound, self.workers, advance)
                    return _AtWork(state, bound, step_store, shared, shown.pop_all())
                case TrainStep():
                    _train(step, step_store, bound, self.workers, done, advance)
                case _:
                    _result(step, step_store, bound, self.workers, advance)
        return None

    def _seal(self, state: StepPlan, bound: Bound, step_store: StepStore) -> None:
        _seal(state, bound, step_store)
        self.bounds[state.node.key] = bound
        self.complete_keys.add(state.node.key)


def result_of(target: ResultStep, store: ObjectStore) -> bytes:
    """Returns the content of the file that `execute` made for a step. Raises ValueError if there is none."""
    root, bounds = Root(store), {}
    for node in graph(target):
        state = step_plan(root, node, bounds)
    if not state.complete:
        raise ValueError(f"{target.title}: expected its result in {store.url}, found none; run it first")
    return _first_file(state, root.step_store(target))


def _first_file(state: StepPlan, step_store: StepStore) -> bytes:
    return step_store.read(step_store.receipt(state.done[state.wanted[0]]))


def _seconds(state: StepPlan, step_store: StepStore) -> list[float]:
    """Returns the seconds of the last few committed parts; empty if their receipts cannot be read, because
    only an estimate depends on them."""
    keys = [state.done[number] for number in sorted(state.done)[-TIMED:]]
    try:
        return [receipt.seconds for receipt in step_store.receipts(keys)]
    except (StoreError, CorruptObject, FileNotFoundError):
        return []


def _shards(
    state: StepPlan, step: SampleStep, step_store: StepStore, bound: Bound, workers: Workers, advance: Advance
) -> Shared:
    """Queues the missing shards of a step for the workers."""
    step.check_source(bound)
    if state.copies:
        workers.progress.say(f"{step.title}: {state.reason}")
    first = state.wanted[0] if state.wanted[0] in state.missing else None
    work = partial(shard_work, step, step_store, bound, first, state.copies)
    warn = WarnsOnce(step, step_store, "shards", bound, workers.progress.say)

    def take(number: int, seconds: float) -> None:
        warn(number)
        advance(1, seconds)

    return workers.add(step, "shard", step.network_evaluations(1) > 0, work, state.missing, take)


def _result(step: Step, step_store: StepStore, bound: Bound, workers: Workers, advance: Advance) -> None:
    gpu = step.network_evaluations(1) > 0
    if not gpu:
        workers.release_gpus()

    def spread(
        make: Callable[[], Callable[[Any], Any]], items: Sequence[Any], take: Callable[[Any, Any], None]
    ) -> None:
        workers.finish(workers.add(step, "part", gpu, make, items, take))

    make_result(step, step_store, bound, workers.store, spread)
    advance(1)


def _gauged(state: StepPlan, advance: Advance) -> Advance:
    """Returns an `advance` that also updates Ray's metrics of the step's progress."""
    from dgflow.runtime import metrics

    done = len(state.done)

    def both(count: int, seconds: float | None = None) -> None:
        nonlocal done
        advance(count, seconds)
        done += count
        metrics.parts(state.step.name, done, len(state.wanted))

    return both


def _train(
    step: TrainStep, step_store: StepStore, bound: Bound, workers: Workers, done: int, advance: Advance
) -> None:
    workers.close()
    workers.connect()
    from dgflow.runtime.training.fit import TrainingFailed, fit

    warn = WarnsOnce(step, step_store, "epochs", bound, workers.progress.say)

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
            placement=workers.placement,
            on_epoch=on_epoch,
            tell=workers.progress.tell,
            on_note=partial(workers.progress.epoch, step),
        )
    except TrainingFailed as error:
        raise StepFailed(str(error)) from error


def make_result(
    step: Step, step_store: StepStore, bound: Bound, store: ObjectStore, spread: Spread = here
) -> None:
    """Computes and commits the file of a step that makes one file."""
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
    """Writes the manifests of the slices of a step that the recipe uses."""
    for part in state.node.slices:
        if step_store.manifest(part.start, part.stop, bound.digests) is not None:
            continue
        keys = [step_store.key("shards", number, bound.digests) for number in part.shards]
        if len(keys) and (end := step_store.receipt(keys[-1]).stop) is not None and end < part.stop:
            raise ValueError(
                f"{state.step.title}: expected {part.stop:,} samples, found only {end:,}; use a smaller slice"
            )
        step_store.seal(part.start, part.stop, bound.digests, keys, part.step.remarks(bound))
        for doubt in part.step.doubts(part, bound):
            _log.warning("%s", doubt)
