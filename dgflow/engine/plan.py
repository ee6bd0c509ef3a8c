"""The state of a recipe in a root: the missing parts, and the reasons. Reads the store alone: no torch, no
Ray."""

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
    """One step: the parts that the recipe wants and those that are committed."""

    node: Node
    wanted: list[int]
    bound: Bound | None  # the step's inputs, None while they are incomplete
    done: dict[int, str] = field(default_factory=dict)  # committed parts of these inputs -> receipt's key
    copies: dict[int, Copy] = field(default_factory=dict)  # missing parts that can be copied instead of built
    action: Action = "build"
    reason: str = ""
    waits_for: list[Step] = field(default_factory=list)  # inputs that are incomplete
    changes: list[Change] = field(default_factory=list)  # from the nearest step of the same kind in the root

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
        """The network evaluations that the missing parts take."""
        return self.step.work(self.amount) if self.amount else []

    @property
    def stored_bytes(self) -> int | None:
        """An upper bound for the size of the missing parts; None if unknown."""
        return self.step.stored_bytes(self.missing) if self.missing else 0

    @property
    def choices(self) -> dict[str, str]:
        """The step's choices by the measurements of its inputs, in words, by name."""
        return {} if self.bound is None else {name: str(each) for name, each in self.bound.choices.items()}

    @property
    def complete(self) -> bool:
        return self.action == "reuse"

    @property
    def unit(self) -> str:
        return self.step.unit

    @property
    def evaluations(self) -> int:
        """The network evaluations that the missing samples take."""
        return self.step.network_evaluations(self.amount)


def plan(target: Target, store: ObjectStore) -> list[StepPlan]:
    """Returns the state of every step of the recipe, in execution order."""
    root, known, plans = Root(store), {}, []
    nodes = graph(target)
    times = Counter(node.step.fingerprint for node in nodes)
    recorded = Recorded(root, {node.step.fingerprint: node.step for node in nodes})
    for node in nodes:
        state = look(root, node, known)
        if state.action == "build" and state.bound is not None and not state.reason:
            changes = recorded.nearest(node.step)
            state.changes = changes or []
            lines = f"differs from the nearest one there: {_some(map(str, state.changes))}"
            state.reason = "no similar step in the root" if changes is None else lines
        if state.action == "rebuild" and times[node.step.fingerprint] > 1:
            # Parts of the same step for other epochs of a training are not an earlier state of these.
            state.action, state.reason = "build", "made for other numbers of epochs so far"
        plans.append(state)
    return plans


def look(root: Root, node: Node, known: dict[str, Bound | None]) -> StepPlan:
    """Returns the state of one step; adds its inputs to `known`, None if nothing can be made from the step
    yet."""
    step = node.step
    state = StepPlan(node, step.parts(node.slices), root.bind(node, known))
    known[node.key] = None
    step_store = root.step_store(step)
    step_store.check(step.document())
    committed = step_store.committed(step.folder)  # the only listing of the step's parts
    if state.bound is None:
        waiting = {
            node.reads[name]: reference.step
            for name, reference in step.reads.items()
            if _is_open(root, reference, known[node.reads[name]])
        }
        state.waits_for = list(waiting.values())
        state.reason = f"after {_some(dict.fromkeys(each.title for each in state.waits_for))}"
        if earlier := len(committed):
            unit = step.unit if earlier > 1 else step.unit.removesuffix("s")
            state.reason += (
                f"; {earlier:,} {unit} of earlier inputs {'are' if earlier > 1 else 'is'} kept, and reused "
                "if the inputs come out the same"
            )
        if isinstance(step, SampleStep) and (likely := root.lengths.likely(step, state.wanted)):
            state.reason += (
                f"; up to {likely:,} {step.unit} of another length are copied if made from the same samples"
            )
        step.check_slices(node.slices, None)
        return state
    wanted = set(state.wanted)
    done = made_from(committed, state.bound.digests)
    state.done = {number: key for number, key in done.items() if number in wanted}
    if not state.missing and _sealed(step_store, node, state.bound):
        state.action = "reuse"
        known[node.key] = state.bound
        return state
    if step.folder == "epochs":
        known[node.key] = state.bound  # a reference may need only its first epochs
    step.check_slices(node.slices, state.bound)
    if isinstance(step, SampleStep):
        state.copies = root.lengths.copies(step, state.bound, state.missing)
    if state.done or state.copies:
        state.action = "extend"
        state.reason = f"{len(state.done):,} of {len(wanted):,} {step.unit} are there"
        if state.copies:
            others = dict.fromkeys(each.step_store.name for each in state.copies.values())
            state.reason += f"; {len(state.copies):,} of another length are copied from {_some(others)}"
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
