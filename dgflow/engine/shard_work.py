"""What a worker does with a shard: look, note, build, commit.

Promises that a shard is built only where it is not committed yet, that `status` can tell who is at it and
what went wrong, and that an error is raised to the pool after it was noted. Which worker does what, and how
often, is left to `dgflow.runtime.pool.pool`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from dgflow.specs.bound import Bound
from dgflow.specs.step import SampleStep
from dgflow.store.step_store import StepStore

log = logging.getLogger(__name__)


def shard_work(step: SampleStep, steps: StepStore, inputs: Bound) -> Callable[[int], float]:
    """Load once, then build and commit one shard after another; gives the seconds that each took, 0 for one
    that was there already."""
    from dgflow.runtime import metrics
    from dgflow.runtime.environment import attempt, device_name, failed, versions

    build = step.shard_builder(inputs)
    device = device_name()

    def work(number: int) -> float:
        # Another driver, a host that was thought lost or a worker that died after its commit may have made
        # it. A look is cheap.
        if steps.is_committed("shards", number, inputs.digests):
            return 0.0
        own = attempt()
        steps.note_attempt("shards", number, own)
        began = time.monotonic()
        try:
            start, stop = step.shard_range(number)
            columns = build(start, stop)
            seconds = time.monotonic() - began
            rows = len(columns["index"])
            steps.write_shard(
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
            )  # into this worker's log, which the note names
            steps.note_attempt("shards", number, own | failed(error))
            metrics.shard_failed(step.name)
            raise
        metrics.shard_done(step.name, seconds, rows)
        return seconds

    return work
