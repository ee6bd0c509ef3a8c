"""The first samples of a run's steps, read from committed shards or, before the first commit, from a worker's
preview."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from dgflow.engine.preview import Preview, left, of_shards
from dgflow.report.seen import Seen
from dgflow.store.receipts import CorruptObject

_log = logging.getLogger(__name__)


def preview_of(step: Seen) -> Preview | None:
    """Returns the first samples of a step. None if there are none yet, and for a step without images or
    latents."""
    if step.step_store is None or step.folder != "shards" or step.waiting:
        return None
    try:
        if step.done:
            return of_shards(step.step_store, step.done)
    except (CorruptObject, FileNotFoundError) as error:
        _log.warning("no preview of %s: %s", step.title, error)
        return None
    preview = left(step.step_store)
    stale = preview is not None and step.inputs not in (None, preview.inputs)  # made from earlier inputs
    return None if stale else preview


def under_way(steps: Sequence[Seen]) -> Iterator[tuple[Seen, Preview]]:
    """Yields the steps in progress that have samples, with their previews."""
    for step in steps:
        if not step.complete and (preview := preview_of(step)) is not None:
            yield step, preview


def to_show(steps: Sequence[Seen]) -> list[tuple[Seen, Preview]]:
    """Returns the previews of the steps in progress, or else that of the last step that has samples."""
    shown = list(under_way(steps))
    for step in () if shown else reversed(steps):
        if (preview := preview_of(step)) is not None:
            return [(step, preview)]
    return shown
