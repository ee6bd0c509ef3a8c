"""Building blocks of publications: cards with front matter, code, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from dgflow.files.outputs import OpenNew

MADE_UP = (
    "> **Made up.** This comes from a smoke run, which only checks that the pipeline runs: weights and "
    "numbers are meaningless."
)


def card(front: Mapping[str, Any], parts: Iterable[str]) -> str:
    """Format a card for the hub: YAML front matter between `---`, without empty fields, then paragraphs of
    Markdown."""
    import yaml

    kept = {name: value for name, value in front.items() if value}
    text = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def python(code: str) -> str:
    """Format a block of Python."""
    return f"```python\n{code.strip()}\n```"


def write_json(open_new: OpenNew, name: str, value: Any) -> None:
    """Write a value as a readable JSON file."""
    with open_new(name) as file:
        file.write((json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
