"""Describes the runs of a root in words: active drivers, ended runs, and the contents of the root that belong
to other recipes."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgflow.report.layout import duration
from dgflow.report.seen import Seen, of_record, opened
from dgflow.report.status_text import run_left
from dgflow.runtime.terminal import printable
from dgflow.specs.step import Slice, Target, last_step
from dgflow.store.address import steps_among
from dgflow.store.objects import ObjectStore
from dgflow.store.runs import Asked, Driver, RunRecord, drivers, goal, ranges, records


@dataclass(frozen=True)
class Variant:
    """A recipe with certain options in a root: all runs with the same last step."""

    record: RunRecord  # of the latest run
    runs: int
    drivers: tuple[Driver, ...]  # active ones, and that of the latest run if it did not end cleanly

    @property
    def living(self) -> list[Driver]:
        return [driver for driver in self.drivers if driver.alive]

    @property
    def outcome(self) -> str:
        """`running`, `done`, `interrupted`, `failed: ...`, or `ended unexpectedly`."""
        return "running" if self.living else self.record.outcome or "ended unexpectedly"


def variants(store: ObjectStore, now: float) -> list[Variant]:
    """Returns the variants that a root holds, in the order of their latest runs, oldest first."""
    everything, at_work = records(store), drivers(store, now)
    newest: dict[str, RunRecord] = {}
    for record in everything:
        newest.pop(record.goal, None)
        newest[record.goal] = record
    return [
        Variant(
            record,
            sum(each.goal == aim for each in everything),
            tuple(
                driver
                for driver in at_work
                if driver.record.goal == aim and (driver.alive or driver.record.id == record.id)
            ),
        )
        for aim, record in newest.items()
    ]


def named(asked: Asked) -> str:
    """Formats a recipe with the options that differ from its defaults, such as `digits --samples 500`."""
    return printable(f"{asked.recipe or shlex.join(asked.command) or 'a run'} {asked.given}".strip())


def goal_of(target: Target) -> str:
    """Returns the `RunRecord.goal` of runs of this target."""
    step = last_step(target)
    return goal(step.name, ranges(step.parts((target,) if isinstance(target, Slice) else ())))


def others_line(found: Sequence[Variant], asked: Asked, own: str) -> str | None:
    """Describes the variants whose goal is not `own`, such as `this root also holds digits (run with
    --samples 500), done`. None if there are none."""
    others = [each for each in found if each.record.goal != own]
    if not others:
        return None
    return "this root also holds " + "; ".join(_other(each, asked) for each in others)


def _other(variant: Variant, asked: Asked) -> str:
    known = variant.record.asked
    if known.recipe != asked.recipe:
        return f"{named(known)}, {printable(variant.outcome)}"
    differing = [name for name, value in known.options.items() if value != asked.options.get(name, value)]
    given = known.model_copy(update={"changed": tuple(differing)}).given
    same = f"run with {given}" if given else "an earlier state of the recipe"
    return printable(f"{known.recipe} ({same}), {variant.outcome}")


def driver_lines(variant: Variant) -> list[str]:
    """Returns a line per driver that is active or ended unexpectedly. Without such a driver, the line says
    how the latest run ended."""
    lines = [_driver(driver) for driver in variant.drivers]
    record = variant.record
    if not lines:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.started))
        lines = [f"last run: started {when} on {record.host}, {variant.outcome}"]
    return [printable(line) for line in lines]


def at_work_lines(target: Target, store: ObjectStore) -> list[str]:
    """Returns a line per driver that currently works on this target."""
    own, now = goal_of(target), store.now()
    return [
        printable(_driver(each)) for each in drivers(store, now) if each.alive and each.record.goal == own
    ]


def _driver(driver: Driver) -> str:
    record, beat = driver.record, driver.beat
    who = f"{record.host}, process {record.pid}"
    at = f"step {beat.number} of {beat.of}" + (f", {beat.title}" if beat.title else "")
    if not driver.alive:
        return (
            f"ended unexpectedly: {who}; last heartbeat {duration(driver.silent)} ago, in {at}; the same "
            "command continues from there"
        )
    counts = f": {beat.done:,} of {beat.wanted:,} {beat.unit}" if beat.step else ""
    does = f", {beat.does}" if beat.does else ""
    left = run_left(driver)
    ahead = [] if left is None else [f"about {duration(left)} left"]
    if beat.untimed:
        ahead.append(f"{beat.untimed} step{'' if beat.untimed == 1 else 's'} not yet timed")
    more = f"; run: {' + '.join(ahead)}" if ahead else ""
    return f"at work: {who}: {at}{counts}{does}{more}"


def as_json(variant: Variant) -> dict[str, Any]:
    """Returns a variant as JSON data: the record of its latest run, and its drivers."""
    known = variant.record.model_dump(mode="json", exclude={"steps", "process"})
    return known | {
        "runs": variant.runs,
        "state": variant.outcome,
        "drivers": [driver_json(driver) for driver in variant.drivers],
    }


def driver_json(driver: Driver) -> dict[str, Any]:
    """Returns a driver as JSON data: its run, host and process, whether it is alive, and its latest
    `Beat`."""
    record = driver.record
    own = {"run": record.id, "host": record.host, "pid": record.pid, "alive": driver.alive}
    return own | {"silent": driver.silent} | driver.beat.model_dump(exclude={"written"})


def seen_steps(
    found: Sequence[Variant], store: ObjectStore, names: Sequence[str]
) -> Mapping[str, list[Seen]]:
    """Returns the steps of each variant, by the variant's goal."""
    return {each.record.goal: of_record(each.record, store, names) for each in found}


def unrecorded(found: Sequence[Variant], store: ObjectStore, names: Sequence[str]) -> list[tuple[str, int]]:
    """Returns name and number of parts of each step that no record names, such as steps made by earlier
    versions."""
    recorded = {step.name for each in found for step in each.record.steps}
    return [(name, _parts(store, name)) for name in steps_among(names) if name not in recorded]


def _parts(store: ObjectStore, name: str) -> int:
    if (step_store := opened(store, name)) is None:
        return 0
    return max(len(step_store.committed(folder)) for folder in ("shards", "epochs", "results"))
