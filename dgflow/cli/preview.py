"""The option `--preview` of `status`: shows the first samples of active steps in the terminal, and writes
them as PNG files into the root.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from dgflow.engine.preview import Preview, keep, preview_key
from dgflow.report.blocks import draw
from dgflow.report.previews import to_show
from dgflow.report.seen import Seen
from dgflow.store.objects import StoreError
from dgflow.store.open import as_typed

AsPreview = Annotated[
    bool,
    typer.Option(
        "--preview",
        help="Also show the first samples, up to 64, of the active steps, or else of the last step, and "
        "write them as attempts/preview.png into the step's folder.",
    ),
]


def print_previews(steps: Sequence[Seen]) -> list[dict[str, Any]]:
    """Print the previews of `steps` and the paths of their files; returns them as JSON data."""
    shown = to_show(steps)
    printed = [_print(step, preview) for step, preview in shown]
    if not shown:
        print("\nno samples to show yet")
    return printed


def _print(step: Seen, preview: Preview) -> dict[str, Any]:
    assert step.step_store is not None
    print(f"\n{step.title}: {preview.caption}")
    drawn, count, path = draw(preview.images), len(preview.images), None
    try:
        # If the preview is not committed, a worker has written the file.
        key = keep(step.step_store, preview) if preview.committed else preview_key(step.step_store)
        path = f"{as_typed(step.step_store.store)}/{key}"
        print(f"  {f'the first {drawn} of {count}, all in ' if 0 < drawn < count else ''}{path}")
    except StoreError as error:  # a read-only root
        print(f"  not written as a file: {error}")
    facts = {"start": preview.start, "samples": count, "of": preview.of, "committed": preview.committed}
    return {"step": step.name, "title": step.title, **facts, "file": path}
