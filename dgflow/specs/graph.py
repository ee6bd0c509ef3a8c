"""The steps of a recipe, in the order in which they are run."""

from __future__ import annotations

from dataclasses import dataclass

from dgflow.specs.step import SampleStep, Slice, Step, TrainStep


@dataclass(frozen=True)
class Node:
    """A step of a recipe with all that the recipe asks of it."""

    step: Step
    slices: tuple[Slice, ...] = ()

    @property
    def shards(self) -> list[int]:
        """Numbers of the shards that the slices cover."""
        assert isinstance(self.step, SampleStep)
        return sorted(
            {number for part in self.slices for number in self.step.shards_of(part.start, part.stop)}
        )


def graph(target: Step) -> list[Node]:
    """Every step that `target` needs and `target` itself, each after what it reads.

    What is fetched from outside comes first, so that a file that cannot be had is found before hours of work.
    Of the other steps that could come next, those that use the workers as the last one did come first: going
    from making samples to training and back starts processes anew.
    """
    found: dict[str, Step] = {}
    slices: dict[str, dict[tuple[int, int], Slice]] = {}

    def visit(step: Step) -> None:
        if step.fingerprint in found:
            return
        for reference in step.inputs().values():
            visit(reference.step)
            if isinstance(reference, Slice):
                slices.setdefault(reference.step.fingerprint, {})[(reference.start, reference.stop)] = (
                    reference
                )
        found[step.fingerprint] = step

    visit(target)
    order: dict[str, Step] = {}
    trains = False
    while len(order) < len(found):
        ready = [
            step
            for key, step in found.items()
            if key not in order and all(item.step.fingerprint in order for item in step.inputs().values())
        ]
        fetched = next((step for step in ready if is_fetched(step)), None)
        chosen = fetched or next((step for step in ready if isinstance(step, TrainStep) == trains), ready[0])
        trains = isinstance(chosen, TrainStep)
        order[chosen.fingerprint] = chosen
    return [Node(step, tuple(slices.get(key, {}).values())) for key, step in order.items()]


def is_fetched(step: Step) -> bool:
    """Whether it comes from outside: a result that needs no samples and no training."""
    return not isinstance(step, SampleStep | TrainStep) and not any(
        isinstance(reference, Slice) or isinstance(reference.step, TrainStep)
        for reference in step.inputs().values()
    )
