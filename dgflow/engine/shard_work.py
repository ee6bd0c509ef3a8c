"""A worker's work on one shard: build and commit it unless it is committed, with notes for `status`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from dgflow.specs.bound import Bound
from dgflow.specs.step import SampleStep
from dgflow.store.step_store import StepStore

log = logging.getLogger(__name__)


def shard_work(step: SampleStep, step_store: StepStore, inputs: Bound) -> Callable[[int], float]:
    """Load once; the function returned builds and commits one shard and gives the seconds it took, 0 for one
    that was committed already. An error is noted, then raised."""
    from dgflow.runtime import metrics
    from dgflow.runtime.environment import attempt, device_name, failed, versions

    build = step.shard_builder(inputs)
    device = device_name()

    def work(number: int) -> float:
        # Another driver, a host that seemed lost or a worker that died after its commit may have built it.
        if step_store.is_committed("shards", number, inputs.digests):
            return 0.0
        own = attempt()
        step_store.note_attempt("shards", number, own)
        began = time.monotonic()
        try:
            start, stop = step.shard_range(number)
            columns = build(start, stop)
            seconds = time.monotonic() - began
            rows = len(columns["index"])
            step_store.write_shard(
                number,
                columns,
                start=start,
                stop=start + rows,
                inputs=inputs.digests,
                seconds=seconds,
                device=device,
                versions=versions(),
            )
        except Exception as error:
            log.exception(
                "%s shard %d failed", step.name, number
            )  # into this worker's log, named by the note
            step_store.note_attempt("shards", number, own | failed(error))
            metrics.shard_failed(step.name)
            raise
        metrics.shard_done(step.name, seconds, rows)
        return seconds

    return work
