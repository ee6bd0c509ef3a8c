"""The parameters, the command and the code behind a result, as shown on the page."""

from __future__ import annotations

import shlex
from typing import Any

from dgflow.store.runs import Asked, RunRecord


def recipe_facts(record: RunRecord | None, asked: Asked | None) -> dict[str, Any] | None:
    """Returns the description of a recipe for the page, or None if neither argument names a recipe.

    The keys are `facts` (pairs of name and text), `about` (the recipe's docstring), `options` (pairs of name
    and value) and `details` (True if there is an `about` or an option).

    Args:
        record: the latest run of the recipe.
        asked: used without a `record`. Its command is left out, since that command made no result.
    """
    source = asked if record is None else record.asked
    if source is None or not (source.recipe or source.file):
        return None
    facts = [("parameters", source.given or "all by default")]
    if record is not None:
        if source.command:
            facts.append(("command", shlex.join(source.command)))
        of_git = f", commit {source.short_commit}" if source.commit else ""
        facts.append(("code", f"dgflow {record.version}{of_git}"))
    options = [(f"--{name.replace('_', '-')}", str(value)) for name, value in source.options.items()]
    options += [("commit", source.commit)] if record is not None and source.commit else []
    about = source.about.strip()
    return {"facts": facts, "about": about, "options": options, "details": bool(about or options)}
