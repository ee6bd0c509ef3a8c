"""Inspect a root without a recipe: `dgflow ls ROOT` and `dgflow status ROOT`. Writes nothing except
previews.
"""

import shlex
from typing import Any

from dgflow.cli.guard import print_json
from dgflow.cli.preview import print_previews
from dgflow.report import runs_text
from dgflow.report.layout import parts
from dgflow.report.runs_text import Variant
from dgflow.report.seen import Seen
from dgflow.report.status_text import rows_of, status_table, status_total
from dgflow.runtime.terminal import UNLIMITED, terminal_width, wrapped
from dgflow.store.objects import ObjectStore


def list_runs(store: ObjectStore, *, json: bool) -> int:
    """Print one line per recipe and options in the root, with its progress."""
    names, now = store.names(), store.now()
    variants = runs_text.variants(store, now)
    steps = runs_text.seen_steps(variants, store, names)
    others = runs_text.unrecorded(variants, store, names)
    for variant in variants:
        for line in _heading(variant, steps[variant.record.goal]):
            print(line)
    _print_unrecorded(others, some=bool(variants))
    if json:
        print_json({"runs": [_json(each, steps) for each in variants], "unrecorded": dict(others)})
    return 0


def status(store: ObjectStore, *, json: bool, preview: bool = False) -> int:
    """Print the state of every step of every run in the root, and with `preview` the first samples. Returns
    the exit status: 1 while a step is incomplete.
    """
    names, now = store.names(), store.now()
    variants = runs_text.variants(store, now)
    steps = runs_text.seen_steps(variants, store, names)
    others = runs_text.unrecorded(variants, store, names)
    everything: list[dict[str, Any]] = []
    for number, variant in enumerate(variants):
        seen = steps[variant.record.goal]
        rows = rows_of(seen, now=now, drivers=variant.drivers)
        print("\n" * bool(number) + "\n".join(_heading(variant, seen)))
        print(status_table(rows, now, variant.drivers))
        total = status_total(rows, variant.drivers)
        everything.append(_json(variant, steps) | {"rows": rows, "total": total})
    _print_unrecorded(others, some=bool(variants))
    once = {step.name: step for seen in steps.values() for step in seen}
    previews = print_previews(list(once.values())) if preview else []
    if json:
        print_json({"runs": everything, "unrecorded": dict(others), "previews": previews})
    return 0 if all(each.complete for row in steps.values() for each in row) else 1


def _heading(variant: Variant, steps: list[Seen]) -> list[str]:
    record = variant.record
    done = sum(step.complete for step in steps)
    runs = f", {variant.runs} runs" if variant.runs > 1 else ""
    lines = [f"{runs_text.named(record.asked)}: {done} of {len(steps)} steps done{runs}"]
    if record.asked.headline:
        lines.append(f"  {record.asked.headline}")
    at = f", commit {record.asked.short_commit}" if record.asked.commit else ""
    lines += [f"  {line}" for line in runs_text.driver_lines(variant)]
    lines.append(f"  command: {shlex.join(record.asked.command)} (dgflow {record.version}{at})")
    return [part for line in lines for part in _wrapped(line)]


def _wrapped(line: str) -> list[str]:
    return wrapped(line.strip(), "  " if line.startswith(" ") else "", "  ", terminal_width(UNLIMITED))


def _print_unrecorded(others: list[tuple[str, int]], some: bool) -> None:
    if others:
        print(f"{'besides, ' if some else ''}steps of runs without a record:")
    for name, number in others:
        print(f"  {name}: {parts(number, 'part') if number else 'nothing done'}")
    if not others and not some:
        print("nothing has been run in this root yet")


def _json(variant: Variant, steps: Any) -> dict[str, Any]:
    seen: list[Seen] = steps[variant.record.goal]
    counts = {"steps": len(seen), "steps_done": sum(step.complete for step in seen)}
    return runs_text.as_json(variant) | counts
