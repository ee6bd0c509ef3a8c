"""Published networks in Python, without a root of one's own."""

from __future__ import annotations

from dgflow.client.kinds import load_kinds
from dgflow.client.open_root import OpenRoot
from dgflow.engine.execute import make_result
from dgflow.engine.root import Root
from dgflow.specs.bound import Bound
from dgflow.specs.graph import graph
from dgflow.steps.official import official
from dgflow.store.memory import MemoryStore


def open_published(name: str, part: str | None = None) -> OpenRoot:
    """A root in memory that holds a published network and those that it reads: `.score()`, `.discriminator()`
    or `.network(step)` loads it.

    The files are fetched and checked as in a run, in every process again; those of the hub are kept in the
    hub's cache.

    Args:
        name, part: as those of `official`.

    Raises:
        ValueError, StoreError: as `official`; a file does not fit its network, or changed in the life of this
            process.
    """
    load_kinds()
    step = official(name, part).step
    store = MemoryStore(f"published-{step.fingerprint}")
    root, known, nodes = Root(store), dict[str, Bound | None](), graph(step)
    names = {node.step.name for node in nodes}
    for node in nodes:
        bound = known[node.key] = root.bind(node, known)
        assert bound is not None
        step_store = root.step_store(node.step)
        step_store.declare(node.step.document(), node.step.described(names))
        make_result(node.step, step_store, bound, store)
    return OpenRoot(store)
