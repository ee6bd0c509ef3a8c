"""`dgflow.load`: a published network in a shell."""

from __future__ import annotations

from dgflow.client.networks import DiscriminatorNetwork, Network, ScoreNetwork
from dgflow.client.open_root import open as open_root
from dgflow.engine.execute import make_result
from dgflow.engine.plan import look
from dgflow.engine.root import Root
from dgflow.networks.roles import DiscriminatorSpec, ScoreNetworkSpec
from dgflow.specs.bound import Bound
from dgflow.specs.graph import graph
from dgflow.specs.step import Weights
from dgflow.store.address import ROOT_MARK, is_root
from dgflow.store.open import open_store
from dgflow.weights.scratch import scratch_folder


def load(weights: Weights, root: str | None = None) -> Network:
    """A published network: `load(official("hf:user/name"))`; a `DiscriminatorNetwork` or a `ScoreNetwork`
    where it is one.

    Its file is fetched once, checked and locked, as in a run; another file in its place is refused. Needs no
    Ray.

    Args:
        weights: of `official`, or `Pretrained(...).weights()`.
        root: where networks are kept, by default `dgflow/networks` in the user's cache. Networks that are
            used together (`dgflow.sample`) have to lie in one root.

    Raises:
        ValueError: the weights of a training, whose root is to be opened; a file that does not fit, or that
            changed since it was fetched.
        StoreError: it cannot be fetched.
    """
    if not weights.step.is_fetched:
        raise ValueError(
            f"expected the weights of a published network, found those of {weights.step.name}: use "
            "dgflow.open(ROOT).network(NAME) of the root that it was trained in"
        )
    store = open_store(str(scratch_folder().parent / "networks") if root is None else root)
    if not is_root(store.url):
        store.create("dgflow.json", ROOT_MARK)
    into, known = Root(store), dict[str, Bound | None]()
    nodes = graph(weights)
    names = {node.step.name for node in nodes}
    for node in nodes:
        state, step_store = look(into, node, known), into.step_store(node.step)
        assert state.bound is not None
        step_store.declare(node.step.document(), node.step.described(names))
        if state.complete:
            node.step.check_unchanged(bytes, store)
        else:
            make_result(node.step, step_store, state.bound, store)
        known[node.key] = state.bound
    opened, name, network = open_root(store.url), weights.step.name, weights.step.architecture
    loaded = {DiscriminatorSpec: DiscriminatorNetwork, ScoreNetworkSpec: ScoreNetwork}
    kind = next((kind for role, kind in loaded.items() if isinstance(network, role)), Network)
    found = opened.network(name)
    return kind(found.records, found.weights, found.bound)
