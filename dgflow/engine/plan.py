"""What a root still lacks of a recipe, and why. Reads the store alone: no torch, no Ray."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from dgflow.engine.root import Root
from dgflow.specs.bound import Bound
from dgflow.specs.graph import Node, graph
from dgflow.specs.step import SampleStep, Step, TrainStep
from dgflow.store.identity import differences
from dgflow.store.objects import ObjectStore
from dgflow.store.step_store import StepStore, made_from, read_step

Action = Literal["reuse", "extend", "build", "rebuild"]
SHOWN_REASONS = 3


@dataclass
class StepPlan:
    """One step: what is there, what is to be done.

    `parts` are shards, epochs or the one result. `bound` is what the step reads, None while that is not
    complete.
    """

    node: Node
    folder: str
    wanted: list[int]
    bound: Bound | None
    done: dict[int, str] = field(
        default_factory=dict
    )  # part number to receipt key, of what was made from exactly these inputs
    action: Action = "build"
    reason: str = ""

    @property
    def step(self) -> Step:
        return self.node.step

    @property
    def missing(self) -> list[int]:
        return [number for number in self.wanted if number not in self.done]

    @property
    def complete(self) -> bool:
        return self.action == "reuse"

    @property
    def unit(self) -> str:
        return {"shards": "shards", "epochs": "epochs", "results": "result"}[self.folder]

    @property
    def evaluations(self) -> int:
        """Network evaluations still to do for samples."""
        step = self.step
        if not isinstance(step, SampleStep):
            return 0
        ranges = (step.shard_range(number) for number in self.missing)
        return sum(step.network_evaluations(stop - start) for start, stop in ranges)


def wanted_parts(node: Node) -> tuple[str, list[int]]:
    """The folder that holds a step's receipts, and the numbers of the parts that the recipe asks for."""
    if isinstance(node.step, SampleStep):
        return "shards", node.shards
    if isinstance(node.step, TrainStep):
        return "epochs", list(range(1, node.step.epochs + 1))
    return "results", [0]


def plan(target: Step, store: ObjectStore) -> list[StepPlan]:
    """Every step of the recipe, in the order in which they are run."""
    root, known, plans = Root(store), {}, []
    recorded: dict[str, list[str]] = {}  # kind to the names of the steps in the root, listed once
    for node in graph(target):
        made = look(root, node, known)
        if made.action == "build" and made.bound is not None and not made.reason:
            made.reason = _why_new(root, node.step, recorded)
        plans.append(made)
    return plans


def look(root: Root, node: Node, known: dict[str, Bound | None]) -> StepPlan:
    """The state of one step; adds what it reads to `known`, None if what it makes is not complete."""
    folder, wanted = wanted_parts(node)
    made = StepPlan(node, folder, wanted, root.bind(node.step, known))
    known[node.step.fingerprint] = None
    steps = root.steps(node.step)
    steps.check(node.step.document())
    committed = steps.committed(folder)  # the one listing of what the step has made
    if made.bound is None:
        inputs = node.step.inputs().values()
        waiting = dict.fromkeys(
            reference.step.title for reference in inputs if known[reference.step.fingerprint] is None
        )
        earlier = len(committed)
        kept = (
            f"; {earlier} {made.unit} of earlier inputs are kept and reused if the inputs come out the same"
            if earlier
            else ""
        )
        made.reason = f"after {_some(waiting)}{kept}"
        return made
    asked = set(wanted)
    made.done = {
        number: key for number, key in made_from(committed, made.bound.digests).items() if number in asked
    }
    if not made.missing and _sealed(steps, node, made.bound):
        made.action = "reuse"
        known[node.step.fingerprint] = made.bound
    elif made.done:
        made.action, made.reason = "extend", f"{len(made.done):,} of {len(wanted):,} {made.unit} are there"
    elif committed:
        made.action, made.reason = "rebuild", _why_stale(steps, committed, made.bound)
    return made


def _sealed(steps: StepStore, node: Node, bound: Bound) -> bool:
    return all(steps.manifest(part.start, part.stop, bound.digests) is not None for part in node.slices)


def _why_stale(steps: StepStore, committed: dict[int, dict[str, str]], bound: Bound) -> str:
    number = min(committed)
    before = steps.receipt(next(iter(committed[number].values()))).inputs
    now = bound.digests
    changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    return f"stale: made from another {', '.join(changed)}"


def _why_new(root: Root, step: Step, recorded: dict[str, list[str]]) -> str:
    """The difference to the nearest step of the same kind in the root."""
    if not recorded:
        for name in root.store.names():
            recorded.setdefault(name.rpartition("-")[0], []).append(name)
    changes: list[list[str]] = []
    for name in recorded.get(step.kind, []):
        found = read_step(root.store, name)
        if found is not None and name != step.name:
            changes.append(differences(found["document"], step.document()))
    if not changes:
        return "nothing like it is there"
    nearest = min(changes, key=lambda lines: (len(lines), sum(map(len, lines))))
    return f"differs from the nearest one there: {_some(nearest)}"


def _some(lines: Iterable[str]) -> str:
    items = list(lines)
    more = f" and {len(items) - SHOWN_REASONS} more" if len(items) > SHOWN_REASONS else ""
    return "; ".join(items[:SHOWN_REASONS]) + more
