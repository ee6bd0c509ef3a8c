"""The parameters, the command and the code behind a result, as shown on the page."""

from __future__ import annotations

import shlex
from typing import Any

from dgflow.store.runs import Asked, RunRecord


def recipe_facts(record: RunRecord | None, asked: Asked | None) -> dict[str, Any] | None:
    """Returns `facts` (name and text), `about` (the docstring) and `options`, from the record of the latest
    run. Without a record, they come from `asked`, without its command, which made no result. None without
    either."""
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
