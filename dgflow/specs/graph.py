"""The steps of a recipe, in the order in which they are run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush

from dgflow.specs.step import Reference, Slice, Step, Target, last_step


@dataclass(frozen=True)
class Node:
    """A step of a recipe, with the slices that the recipe takes of it.

    `key` names the node within its graph: the step's fingerprint, or its `variant` where the graph has steps
    of one fingerprint that stand on different numbers of epochs. `reads` are the keys of the steps that it
    reads, by the path of the field.
    """

    step: Step
    slices: tuple[Slice, ...] = ()
    key: str = ""
    reads: Mapping[str, str] = field(default_factory=dict)


def graph(target: Target) -> list[Node]:
    """Every step that `target` needs and its own last step, each after what it reads.

    A training that is named with several numbers of epochs is one step with the most of them: each reference
    to its last or best weights still means its own number.

    Files from outside come first, so that one that cannot be had is found before hours of work. Of the other
    steps that could come next, those that use the workers as the last one did come first: a change between
    sampling and training restarts processes.
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
    """Steps by their variant, in the order of a walk from the last one: what it reads before each."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}
        self.inputs: dict[str, Mapping[str, Reference]] = {}
        self.slices: dict[str, dict[tuple[int, int], Slice]] = {}

    def visit(self, step: Step) -> None:
        variant = step.variant
        if variant in self.inputs:
            # Trainings of one variant may differ in the number of their epochs: the most stands for all.
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
        """The variants in the order in which the steps are run."""
        place = {variant: number for number, variant in enumerate(self.steps)}
        readers: dict[str, list[str]] = {variant: [] for variant in self.steps}
        open_inputs: dict[str, int] = {}
        for variant in self.steps:
            read = {reference.step.variant for reference in self.inputs[variant].values()}
            open_inputs[variant] = len(read)
            for other in read:
                readers[other].append(variant)
        # Steps whose inputs are all in the order, by their place in the walk: files from outside, others and
        # trainings.
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
