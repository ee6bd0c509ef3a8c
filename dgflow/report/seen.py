"""The state of a step in a root, from a plan of its recipe or from the record of a run alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from dgflow.engine.plan import StepPlan
from dgflow.engine.preview import inputs_digest
from dgflow.store.objects import ObjectStore
from dgflow.store.receipts import CorruptObject
from dgflow.store.runs import RunRecord, RunStep
from dgflow.store.step_store import StepStore, read_step

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """A step's wanted and committed parts."""

    name: str
    title: str
    kind: str
    folder: str
    unit: str
    wanted: Sequence[int]
    done: dict[int, str]  # part -> key of its receipt
    complete: bool
    waiting: bool  # for its inputs
    step_store: StepStore | None  # None if the root holds nothing of the step
    inputs: str | None = None  # the digest of its inputs, None if unknown

    @property
    def missing(self) -> list[int]:
        return [number for number in self.wanted if number not in self.done]


def of_plan(plan: StepPlan, store: ObjectStore) -> Seen:
    """Returns the state of a planned step."""
    step = plan.step
    return Seen(
        name=step.name,
        title=step.title,
        kind=step.kind,
        folder=plan.folder,
        unit=plan.unit,
        wanted=plan.wanted,
        done=plan.done,
        complete=plan.complete,
        waiting=plan.bound is None,
        step_store=StepStore(store, step.kind, step.fingerprint),
        inputs=None if plan.bound is None else inputs_digest(plan.bound.digests),
    )


def of_record(record: RunRecord, store: ObjectStore, names: Sequence[str]) -> list[Seen]:
    """Returns the states of the steps that a run needed; `names` are the steps in the root."""
    return [_recorded(step, store, step.name in names) for step in record.steps]


def opened(store: ObjectStore, name: str) -> StepStore | None:
    """Returns the store of the step `name`; None if the step's description is missing or damaged."""
    try:
        fingerprint = (read_step(store, name) or {}).get("fingerprint")
        return StepStore(store, name.rpartition("-")[0], fingerprint) if fingerprint else None
    except (CorruptObject, ValueError) as error:
        log.warning("could not read the description of %s, see `verify`: %s", name, error)
        return None


def _recorded(step: RunStep, store: ObjectStore, is_there: bool) -> Seen:
    step_store = opened(store, step.name) if is_there else None
    wanted = step.parts
    there = {} if step_store is None else step_store.newest(step.folder)
    done = {number: there[number] for number in wanted if number in there}
    complete = len(done) == len(wanted)
    return Seen(
        **step.model_dump(include={"name", "title", "kind", "folder", "unit"}),
        wanted=wanted,
        done=done,
        complete=complete,
        waiting=False,
        step_store=step_store,
    )
