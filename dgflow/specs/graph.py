"""The steps of a recipe, in the order in which they are run."""

from __future__ import annotations

from dataclasses import dataclass

from dgflow.specs.step import Slice, Step, Target, last_step


@dataclass(frozen=True)
class Node:
    """A step of a recipe, with the slices that the recipe takes of it."""

    step: Step
    slices: tuple[Slice, ...] = ()


def graph(target: Target) -> list[Node]:
    """Every step that `target` needs and its own last step, each after what it reads.

    Files from outside come first, so that one that cannot be had is found before hours of work. Of the other
    steps that could come next, those that use the workers as the last one did come first: a change between
    sampling and training restarts processes.
    """
    steps: dict[str, Step] = {}
    slices: dict[str, dict[tuple[int, int], Slice]] = {}

    def visit(step: Step) -> None:
        if step.fingerprint in steps:
            return
        for reference in step.inputs().values():
            visit(reference.step)
            if isinstance(reference, Slice):
                slices.setdefault(reference.step.fingerprint, {})[(reference.start, reference.stop)] = (
                    reference
                )
        steps[step.fingerprint] = step

    visit(last_step(target))
    if isinstance(target, Slice):
        slices.setdefault(target.step.fingerprint, {})[(target.start, target.stop)] = target
    order: dict[str, Step] = {}
    trains = False
    while len(order) < len(steps):
        ready = [
            step
            for key, step in steps.items()
            if key not in order and all(item.step.fingerprint in order for item in step.inputs().values())
        ]
        fetched = next((step for step in ready if step.is_fetched), None)
        chosen = fetched or next((step for step in ready if (step.folder == "epochs") == trains), ready[0])
        trains = chosen.folder == "epochs"
        order[chosen.fingerprint] = chosen
    return [Node(step, tuple(slices.get(key, {}).values())) for key, step in order.items()]
