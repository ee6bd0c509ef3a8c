"""Open the root of a recipe's command, and print remarks before the command starts."""

import sys
import time
from typing import Literal, TextIO

from dgflow.cli.nearby import others_only, roots_nearby
from dgflow.cli.root import future_root, nothing_at, open_root
from dgflow.report import runs_text
from dgflow.runtime.terminal import tell
from dgflow.specs.graph import graph
from dgflow.specs.step import Target
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.store.runs import Asked
from dgflow.testing.smoke import smoke as smoke_run
from dgflow.testing.smoke_root import MEANINGLESS

Use = Literal["run", "plan", "status", "look"]
"""The use of a root by a command: `run` creates the root, `plan` works without one, others only read it."""


def root_for(use: Use, url: str, smoke: bool) -> ObjectStore:
    """Open the root at `url` for a command; for a plan, the root need not exist.

    Raises the errors of `open_root`, and ValueError if there is no root to read.
    """
    if use == "run":
        return open_root(url, smoke)
    if (store := future_root(url, smoke)) is not None:
        return store
    store = open_store(url)
    if use != "plan":
        raise ValueError(nothing_at(store))
    tell(f"note: nothing at this root yet: {store.url}; {roots_nearby(store)}")
    return store


def tell_others(use: Use, target: Target, store: ObjectStore, question: Asked) -> None:
    """Print a remark if a root has runs of other options or recipes but none of this one. `status` reports
    other options itself.
    """
    variants, goal = runs_text.variants(store, time.time()), runs_text.goal_of(target)
    if any(each.record.goal == goal for each in variants):
        return
    line = None if use == "status" else runs_text.others_line(variants, question, goal)
    if not line and use != "run":
        line = others_only(target, store)
    if line:
        tell(line)


def at_toy_size(use: Use, target: Target, store: ObjectStore, out: TextIO | None = None) -> Target:
    """Return the toy version of `target`; for `run`, also write the external files into the root."""
    toy = smoke_run(target, store.url)
    print(MEANINGLESS, flush=True, file=out or sys.stdout)
    if use == "run":
        toy.write(store)
    return toy.target


def warn(target: Target) -> None:
    """Print the warnings that follow from the recipe alone."""
    for line in dict.fromkeys(line for node in graph(target) for line in node.step.cautions()):
        tell(f"warning: {line}")
