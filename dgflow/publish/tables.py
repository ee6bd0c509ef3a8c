"""Find the tables of a root that measure samples made with the weights of one network. Receipts decide, not
names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dgflow.client.open_root import OpenRoot
from dgflow.publish.lineage import steps_behind
from dgflow.report.outcome import Outcome
from dgflow.specs.bound import BoundItem, BoundMeasurements, BoundRows, BoundWeights
from dgflow.specs.figures import Metric
from dgflow.specs.step import Reference, ResultStep, Slice, Step
from dgflow.store.receipts import CorruptObject


@dataclass(frozen=True)
class Table:
    """The arms of a result.

    Attributes:
        step: name of the step in the root.
        columns: the quantities that at least one arm has.
        arms: arms by name, as in `ResultStep.compared`.
        samples: the first samples of each arm that the result names.
        with_it: the arms whose samples were made with the weights.
        reference: the reference and protocol of the comparison, if the file states them.
    """

    step: str
    columns: Mapping[str, Metric]
    arms: Mapping[str, Mapping[str, Any]]
    samples: Mapping[str, Slice]
    with_it: frozenset[str]
    reference: Mapping[str, Any]


@dataclass
class _Behind:
    """Finds the weights with which parts of a root were made."""

    root: OpenRoot
    known: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)

    def digests(self, reference: Reference, item: BoundItem) -> frozenset[str]:
        """The digests of all weights behind an input of a step, including its own."""
        key = (reference.step.name, item.digest)
        if key not in self.known:
            own = frozenset([item.digest]) if isinstance(item, BoundWeights) else frozenset()
            self.known[key] = own.union(*self.each(reference.step, _inputs(item)).values())
        return self.known[key]

    def each(self, step: Step, inputs: Mapping[str, str]) -> dict[str, frozenset[str]]:
        """The digests of the weights behind each input of `step`, by field path, for a part made from
        `inputs`."""
        step = step.as_made(inputs)
        items = self.root.records.bound(step, inputs).items
        return {path: self.digests(step.reads[path], item) for path, item in items.items()}


def _inputs(item: BoundItem) -> Mapping[str, str]:
    if isinstance(item, BoundRows):
        return item.manifest.inputs
    return item.receipts[0].inputs if isinstance(item, BoundMeasurements) else item.receipt.inputs


def tables(root: OpenRoot, step: Step, digest: str) -> list[Table]:
    """The tables that have an arm made with the weights of `step` with this digest."""
    behind, found, records = _Behind(root), [], root.records
    for name in [each.name for each in records.all_recorded(records.names)]:  # read in one batch
        try:
            result = records.step(name)
        except ValueError:
            continue  # a kind that is not defined here cannot be read
        if not isinstance(result, ResultStep) or not _is_behind(step, result):
            continue
        view = root.step(name)
        receipts = view.receipts
        if not receipts:
            continue
        outcome = Outcome(result, view.content)
        arms = outcome.arms
        if not arms:
            continue
        try:
            paths = behind.each(result, receipts[0].inputs)
        except CorruptObject:
            continue  # the samples of its arms have been removed
        with_it = frozenset(arm for arm in arms if digest in _of_arm(arm, paths))
        if with_it:
            reference = view.result.get("reference") or {}
            samples = {arm: parts[0] for arm, parts in getattr(result, "arms", {}).items() if arm in arms}
            found.append(Table(name, outcome.shown, arms, samples, with_it, reference))
    return found


def _of_arm(arm: str, paths: Mapping[str, frozenset[str]]) -> frozenset[str]:
    own = [each for path, each in paths.items() if path.startswith(f"arms.{arm}.")]
    return frozenset().union(*own)


def _is_behind(step: Step, result: Step) -> bool:
    return step.fingerprint in {each.fingerprint for each in steps_behind(result)}
