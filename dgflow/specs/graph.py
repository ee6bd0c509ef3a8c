"""The graph of a recipe: its steps in execution order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush

from dgflow.specs.step import Reference, Slice, Step, Target, last_step


@dataclass(frozen=True)
class Node:
    """A step of a recipe, with the slices that the recipe takes of it.

    `key` identifies the node within its graph: the step's fingerprint, or its `variant` if several steps of
    the graph share a fingerprint but depend on different numbers of epochs. `reads` holds the keys of the
    steps that it reads, by field path.
    """

    step: Step
    slices: tuple[Slice, ...] = ()
    key: str = ""
    reads: Mapping[str, str] = field(default_factory=dict)


def graph(target: Target) -> list[Node]:
    """Return all steps that `target` needs, including its last step, each after its inputs.

    A training that is named with several numbers of epochs is one step with the largest number; each
    reference to its last or best weights keeps its own number.

    External files come first, so that an unavailable file is found before hours of work. Among the other
    steps that are ready, those that use the workers like the previous step come first, because a change
    between sampling and training restarts processes.
    """
    found = _Steps()
    last = last_step(target)
    found.visit(last)
    if isinstance(target, Slice):
        found.take(target)
    times = Counter(step.fingerprint for step in found.steps.values())
    keys = {
        variant: step.fingerprint if times[step.fingerprint] == 1 else variant
        for variant, step in found.steps.items()
    }
    return [
        Node(
            found.steps[variant],
            tuple(found.slices.get(variant, {}).values()),
            keys[variant],
            {name: keys[each.step.variant] for name, each in found.inputs[variant].items()},
        )
        for variant in found.ordered()
    ]


class _Steps:
    """Steps by variant, in the order of a depth-first walk from the last step: inputs before the step."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}
        self.inputs: dict[str, Mapping[str, Reference]] = {}
        self.slices: dict[str, dict[tuple[int, int], Slice]] = {}

    def visit(self, step: Step) -> None:
        variant = step.variant
        if variant in self.inputs:
            # Trainings of one variant may differ in their number of epochs: the largest represents all.
            self.steps[variant] = max(self.steps[variant], step, key=lambda each: len(each.parts(())))
            return
        inputs = self.inputs[variant] = step.reads
        for reference in inputs.values():
            self.visit(reference.step)
            if isinstance(reference, Slice):
                self.take(reference)
        self.steps[variant] = step

    def take(self, part: Slice) -> None:
        self.slices.setdefault(part.step.variant, {})[(part.start, part.stop)] = part

    def ordered(self) -> list[str]:
        """The variants in execution order."""
        place = {variant: number for number, variant in enumerate(self.steps)}
        readers: dict[str, list[str]] = {variant: [] for variant in self.steps}
        open_inputs: dict[str, int] = {}
        for variant in self.steps:
            read = {reference.step.variant for reference in self.inputs[variant].values()}
            open_inputs[variant] = len(read)
            for other in read:
                readers[other].append(variant)
        # Ready steps, by position in the walk: external files, other steps, trainings.
        ready: tuple[list[tuple[int, str]], ...] = ([], [], [])

        def is_ready(variant: str) -> None:
            step = self.steps[variant]
            kind = 0 if step.is_fetched else 1 + (step.folder == "epochs")
            heappush(ready[kind], (place[variant], variant))

        for variant, count in open_inputs.items():
            if not count:
                is_ready(variant)
        order: list[str] = []
        trains = False
        while len(order) < len(self.steps):
            kind = next(kind for kind in (0, 1 + trains, 2 - trains) if ready[kind])
            chosen = heappop(ready[kind])[1]
            trains = self.steps[chosen].folder == "epochs"
            order.append(chosen)
            for reader in readers[chosen]:
                open_inputs[reader] -= 1
                if not open_inputs[reader]:
                    is_ready(reader)
        return order
