"""Building steps in the test's own process, without Ray."""

from dgflow.engine.execute import make_result, shard_work
from dgflow.engine.plan import step_plan
from dgflow.engine.root import Root
from dgflow.runtime.placement import Placement
from dgflow.runtime.progress import Progress
from dgflow.runtime.training.loop import train
from dgflow.specs.bound import Bound
from dgflow.specs.graph import graph
from dgflow.specs.step import SampleStep, Target
from dgflow.specs.train_step import TrainStep
from dgflow.store.objects import ObjectStore


def complete(target: Target, store: ObjectStore) -> Bound:
    """Build a step and all its inputs sequentially in this process, without Ray; returns the bound inputs."""
    root = Root(store)
    known: dict[str, Bound | None] = {}
    nodes = graph(target)
    names = {node.step.name for node in nodes}
    for node in nodes:
        state = step_plan(root, node, known)
        steps = root.step_store(node.step)
        if state.complete:
            continue
        assert state.bound is not None
        steps.declare(node.step.document(), node.step.described(names))
        if isinstance(node.step, SampleStep):
            node.step.check_source(state.bound)
            work = shard_work(node.step, steps, state.bound, None, state.copies)
            for number in state.missing:
                work(number)
            done = steps.done("shards", state.bound.digests)
            for part in node.slices:
                keys = [done[number] for number in part.shards]
                steps.seal(part.start, part.stop, state.bound.digests, keys, node.step.remarks(state.bound))
        elif isinstance(node.step, TrainStep):
            train(node.step.training_task(state.bound), steps, state.bound.digests, epochs=node.step.epochs)
        else:
            make_result(node.step, steps, state.bound, store)
        known[node.key] = state.bound
    bound = known[graph(target)[-1].key]
    assert bound is not None
    return bound


def execute_here(target: Target, store: ObjectStore, placement: Placement, progress: Progress) -> None:
    """`complete` in the place of `dgflow.engine.execute.execute`: for command lines that a test calls."""
    del placement, progress
    complete(target, store)
