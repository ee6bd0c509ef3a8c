"""`dgflow.load`: use a published network interactively."""

from __future__ import annotations

from dgflow.client.networks import DiscriminatorNetwork, Network, ScoreNetwork
from dgflow.client.open_root import open as open_root
from dgflow.engine.execute import make_result
from dgflow.engine.plan import step_plan
from dgflow.engine.root import Root
from dgflow.networks.roles import DiscriminatorSpec, ScoreNetworkSpec
from dgflow.specs.bound import Bound
from dgflow.specs.graph import graph
from dgflow.specs.step import Weights
from dgflow.store.address import ROOT_MARK, is_root
from dgflow.store.open import open_store
from dgflow.weights.scratch import scratch_folder


def load(weights: Weights, root: str | None = None) -> Network:
    """Load a published network, `load(official("hf:user/name"))`, as a `DiscriminatorNetwork`, `ScoreNetwork`
    or other `Network`.

    The file is downloaded once, verified and locked, as in a run: a different file is then refused. Does not
    need Ray.

    Args:
        weights: the result of `official`, or `Pretrained(...).weights()`.
        root: the root that stores networks; by default `dgflow/networks` in the user's cache. Networks used
            together (`dgflow.sample`) must share a root.

    Raises:
        ValueError: the weights belong to a training, whose root must be opened instead; or the file does not
            fit, or has changed since it was fetched.
        StoreError: the file cannot be fetched.
    """
    if not weights.step.is_fetched:
        raise ValueError(
            f"expected the weights of a published network, found those of {weights.step.name}: use "
            "dgflow.open(ROOT).network(NAME) of the root that it was trained in"
        )
    store = open_store(str(scratch_folder().parent / "networks") if root is None else root)
    if not is_root(store.url):
        store.create("dgflow.json", ROOT_MARK)
    into, bounds = Root(store), dict[str, Bound | None]()
    nodes = graph(weights)
    names = {node.step.name for node in nodes}
    for node in nodes:
        state, step_store = step_plan(into, node, bounds), into.step_store(node.step)
        assert state.bound is not None
        step_store.declare(node.step.document(), node.step.described(names))
        if state.complete:
            node.step.check_unchanged(bytes, store)
        else:
            make_result(node.step, step_store, state.bound, store)
        bounds[node.key] = state.bound
    opened, name, network = open_root(store.url), weights.step.name, weights.step.architecture
    loaded = {DiscriminatorSpec: DiscriminatorNetwork, ScoreNetworkSpec: ScoreNetwork}
    kind = next((kind for role, kind in loaded.items() if isinstance(network, role)), Network)
    generic = opened.network(name)
    return kind(generic.records, generic.weights, generic.bound)
