"""The state of a recipe in a root: the missing parts of each step, and the reasons. Reads only the store;
loads neither torch nor Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from dgflow.engine.differences import Change, Recorded
from dgflow.engine.lengths import Copy
from dgflow.engine.root import Root
from dgflow.specs.bound import Bound
from dgflow.specs.graph import Node, graph
from dgflow.specs.step import Reference, SampleStep, Step, Target, Weights, Work
from dgflow.store.objects import ObjectStore
from dgflow.store.step_store import StepStore, made_from

Action = Literal["reuse", "extend", "build", "rebuild"]
SHOWN_REASONS = 3


@dataclass
class StepPlan:
    """One step: the parts that the recipe needs, and those that are committed."""

    node: Node
    wanted: list[int]
    bound: Bound | None  # the step's inputs; None while they are incomplete
    done: dict[int, str] = field(default_factory=dict)  # parts made from these inputs -> receipt's key
    copies: dict[int, Copy] = field(default_factory=dict)  # missing parts that can be copied instead of built
    action: Action = "build"
    reason: str = ""
    waits_for: list[Step] = field(default_factory=list)  # inputs that are incomplete
    changes: list[Change] = field(default_factory=list)  # from the most similar step of its kind in the root

    @property
    def step(self) -> Step:
        return self.node.step

    @property
    def folder(self) -> str:
        return self.step.folder

    @property
    def missing(self) -> list[int]:
        return [number for number in self.wanted if number not in self.done]

    @property
    def amount(self) -> int:
        """The number of samples, epochs or files to be made."""
        return self.step.amount([number for number in self.missing if number not in self.copies])

    @property
    def work(self) -> list[Work]:
        """The work of the missing parts: evaluations by network."""
        return self.step.work(self.amount) if self.amount else []

    @property
    def stored_bytes(self) -> int | None:
        """An upper bound for the bytes of the missing parts; None if unknown."""
        return self.step.stored_bytes(self.missing) if self.missing else 0

    @property
    def choices(self) -> dict[str, str]:
        """The values that the step chooses by the measurements of its inputs, in words, by name."""
        return {} if self.bound is None else {name: str(each) for name, each in self.bound.choices.items()}

    @property
    def complete(self) -> bool:
        return self.action == "reuse"

    @property
    def unit(self) -> str:
        return self.step.unit

    @property
    def evaluations(self) -> int:
        """The number of network evaluations for the missing samples."""
        return self.step.network_evaluations(self.amount)


def plan(target: Target, store: ObjectStore) -> list[StepPlan]:
    """Returns the state of every step of the recipe, in execution order."""
    root, bounds, plans = Root(store), {}, []
    nodes = graph(target)
    times = Counter(node.step.fingerprint for node in nodes)
    recorded = Recorded(root, {node.step.fingerprint: node.step for node in nodes})
    for node in nodes:
        state = step_plan(root, node, bounds)
        if state.action == "build" and state.bound is not None and not state.reason:
            changes = recorded.nearest(node.step)
            state.changes = changes or []
            lines = f"differs from the most similar step: {_some(map(str, state.changes))}"
            state.reason = "no similar step in the root" if changes is None else lines
        if state.action == "rebuild" and times[node.step.fingerprint] > 1:
            # The same step exists for several numbers of epochs of a training; none of them is stale.
            state.action, state.reason = "build", "built only for other numbers of epochs so far"
        plans.append(state)
    return plans


def step_plan(root: Root, node: Node, bounds: dict[str, Bound | None]) -> StepPlan:
    """Returns the state of one step. `bounds` has the inputs of the steps before it, by node key, and gains
    those of this step: None while the step is incomplete, so that no other step can read it."""
    step = node.step
    state = StepPlan(node, step.parts(node.slices), root.bind(node, bounds))
    bounds[node.key] = None
    step_store = root.step_store(step)
    step_store.check(step.document())
    committed = step_store.committed(step.folder)  # the only listing of the step's parts
    if state.bound is None:
        waiting = {
            node.reads[name]: reference.step
            for name, reference in step.reads.items()
            if _is_open(root, reference, bounds[node.reads[name]])
        }
        state.waits_for = list(waiting.values())
        state.reason = f"after {_some(dict.fromkeys(each.title for each in state.waits_for))}"
        if earlier := len(committed):
            unit = step.unit if earlier > 1 else step.unit.removesuffix("s")
            state.reason += (
                f"; {earlier:,} {unit} of earlier inputs {'are' if earlier > 1 else 'is'} kept, and reused "
                "if the new inputs are identical"
            )
        if isinstance(step, SampleStep) and (likely := root.lengths.likely(step, state.wanted)):
            state.reason += (
                f"; up to {likely:,} {step.unit} are copied from a step of another length if made from the "
                "same samples"
            )
        step.check_slices(node.slices, None)
        return state
    wanted = set(state.wanted)
    done = made_from(committed, state.bound.digests)
    state.done = {number: key for number, key in done.items() if number in wanted}
    if not state.missing and _sealed(step_store, node, state.bound):
        state.action = "reuse"
        bounds[node.key] = state.bound
        return state
    if step.folder == "epochs":
        bounds[node.key] = state.bound  # a reference may need only the first epochs
    step.check_slices(node.slices, state.bound)
    if isinstance(step, SampleStep):
        state.copies = root.lengths.copies(step, state.bound, state.missing)
    if state.done or state.copies:
        state.action = "extend"
        state.reason = f"{len(state.done):,} of {len(wanted):,} {step.unit} are done"
        if state.copies:
            others = dict.fromkeys(each.step_store.name for each in state.copies.values())
            state.reason += f"; {len(state.copies):,} are copied from {_some(others)}, of another length"
    elif committed:
        state.action, state.reason = "rebuild", _why_stale(step_store, committed, state.bound)
    return state


def _is_open(root: Root, reference: Reference, inputs: Bound | None) -> bool:
    """True for a reference to an incomplete step."""
    return inputs is None or (isinstance(reference, Weights) and root.item(reference, inputs) is None)


def _sealed(step_store: StepStore, node: Node, bound: Bound) -> bool:
    return all(step_store.manifest(part.start, part.stop, bound.digests) is not None for part in node.slices)


def _why_stale(step_store: StepStore, committed: dict[int, dict[str, str]], bound: Bound) -> str:
    receipt = next(iter(committed[min(committed)].values()))
    before, now = step_store.receipt(receipt).inputs, bound.digests
    changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    return f"stale: made from another {', '.join(changed)}"


def _some(lines: Iterable[str]) -> str:
    items = list(lines)
    more = f" and {len(items) - SHOWN_REASONS} more" if len(items) > SHOWN_REASONS else ""
    return "; ".join(items[:SHOWN_REASONS]) + more
