"""The steps of a recipe, grouped by the arm or the combination of a sweep that needs them, with labels in the
recipe's own names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dgflow.engine.plan import StepPlan
from dgflow.report.layout import labels
from dgflow.specs.graph import graph
from dgflow.specs.step import Step
from dgflow.steps.judging.evaluate import Evaluate
from dgflow.steps.sweeping.sweep import SelectedSweep, Sweep

SHARED, SEVERAL, END = "for all arms", "for several combinations", ""
"""Groups: steps that several arms need, steps that several combinations of a sweep need, and the table."""
BESIDE = "beside"  # kind of input that is not part of the table; the steps it alone needs count as shared


@dataclass(frozen=True)
class Named:
    """A step's place in a table: its group, such as `arm guided`, and its label within the group."""

    group: str
    label: str
    number: int  # in execution order


def named(plans: Sequence[StepPlan]) -> list[Named]:
    """Returns the steps in the order of their groups.

    For an evaluation the groups are: shared steps, each arm in the recipe's order, the floor, the table. For
    a sweep they are: shared steps, each combination, the table. The steps of any other recipe are one group
    without a name, in execution order.
    """
    target = plans[-1].step
    if isinstance(target, Sweep | SelectedSweep):
        return _of_sweeps(plans)
    if not isinstance(target, Evaluate):
        return _group(END, range(len(plans)), [each.step for each in plans], {})
    readers = _readers(target)
    groups: dict[str, list[int]] = {SHARED: [], **{_arm(name): [] for name in target.arms}, "floor": []}
    for number, step_plan in enumerate(plans[:-1]):
        owners = readers[step_plan.step.variant].groups - {BESIDE} if len(target.arms) > 1 else set()
        groups[next(iter(owners)) if len(owners) == 1 else SHARED].append(number)
    result = []
    for group, numbers in (groups | {END: [len(plans) - 1]}).items():
        result += _group(group, numbers, [plans[number].step for number in numbers], readers)
    return result


def _of_sweeps(plans: Sequence[StepPlan]) -> list[Named]:
    owners: dict[str, set[str]] = {each.node.key: set() for each in plans}
    groups: dict[str, list[int]] = {SEVERAL: []}
    stages = {each.node.key: "" for each in plans if isinstance(each.step, Sweep)}
    last = plans[-1]
    if isinstance(last.step, SelectedSweep):
        stages = {last.node.reads[path]: f"{words}: " for path, words in last.step.groups.items()}
    for each in reversed(plans):  # readers of a step come after it
        if isinstance(each.step, Sweep):
            for path, words in each.step.groups.items():
                group = f"{stages[each.node.key]}{words}"
                owners[each.node.reads[path]].add(group)
        elif not isinstance(each.step, SelectedSweep):
            for key in each.node.reads.values():
                owners[key] |= owners[each.node.key]
    sweeps = [number for number, each in enumerate(plans) if isinstance(each.step, Sweep | SelectedSweep)]
    for number in sweeps:
        step = plans[number].step
        for words in step.groups.values() if isinstance(step, Sweep) else ():
            groups[f"{stages[plans[number].node.key]}{words}"] = []
    for number, each in enumerate(plans):
        if number not in sweeps:
            own = owners[each.node.key]
            groups[next(iter(own)) if len(own) == 1 else SEVERAL].append(number)
    result = []
    for group, numbers in (groups | {END: sweeps}).items():
        result += _group(group, numbers, [plans[number].step for number in numbers], {})
    return result


@dataclass
class _Readers:
    """The groups that need a step, and the sampling seeds of the samples that the step makes or reads."""

    groups: set[str] = field(default_factory=set)
    seeds: set[int | None] = field(default_factory=set)


def _readers(target: Evaluate) -> dict[str, _Readers]:
    """Returns the readers of each step behind an evaluation, by the step's `variant`."""
    readers: dict[str, _Readers] = {}
    for name, reference in target.reads.items():
        kind, _, rest = name.partition(".")
        arm, _, number = rest.rpartition(".")
        part = target.arms[arm][int(number)] if kind == "arms" else None
        chain: set[str] = set()  # the step that samples this slice, and the steps that read its samples
        for node in graph(reference.step):
            key = node.step.variant
            mine = readers.setdefault(key, _Readers())
            if kind == "beside":  # shared, without adding a reader to steps that an arm needs
                continue
            mine.groups.add(kind if part is None else _arm(arm))
            if part is None:
                continue
            read = {each.step.variant for each in node.step.reads.values()}
            if key == part.origin.step.variant or chain & read:
                chain.add(key)
                mine.seeds.add(part.drawn.seed)
    return readers


def _arm(name: str) -> str:
    return f"arm {name}"


def _group(
    group: str, numbers: Sequence[int], steps: Sequence[Step], readers: dict[str, _Readers]
) -> list[Named]:
    titles = [
        _title(step, readers.get(step.variant) if group not in (SHARED, END) else None) for step in steps
    ]
    unique = labels((title, step.name) for title, step in zip(titles, steps, strict=True))
    return [Named(group, label, number) for label, number in zip(unique, numbers, strict=True)]


def _title(step: Step, readers: _Readers | None) -> str:
    """Returns a title such as `features seed 101` for a step on the samples of one seed, else the step's
    own title."""
    seed = next(iter(readers.seeds), None) if readers is not None and len(readers.seeds) == 1 else None
    return step.title if seed is None else f"{step.kind} seed {seed}"
