"""A worker's work on one shard: builds and commits the shard unless it is committed, and writes notes of the
attempt for `status`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

from dgflow.engine.lengths import Copy, copied
from dgflow.engine.preview import leaves
from dgflow.specs.bound import Bound
from dgflow.specs.step import MeasuredColumns, SampleStep
from dgflow.specs.trajectory import Followed
from dgflow.store.shards import Columns
from dgflow.store.step_store import StepStore

log = logging.getLogger(__name__)


def shard_work(
    step: SampleStep,
    step_store: StepStore,
    inputs: Bound,
    first: int | None = None,
    copies: Mapping[int, Copy] = {},
) -> Callable[[int], float]:
    """Returns a function that builds and commits the shard of a given number, and returns the seconds that
    building took.

    The step's networks are loaded once, here. A shard that is already committed, or that is copied from
    `copies`, takes 0 s. An error is written to the note of the attempt and raised. While the shard `first` is
    built, its first rows are written as the step's preview, and the path of its first sample as a
    `Trajectory`.
    """
    from dgflow.runtime import metrics
    from dgflow.runtime.environment import attempt, device_name, failed, versions

    if first is not None and first not in copies:
        start, stop = step.shard_range(first)
        inputs = replace(
            inputs,
            show=leaves(step_store, inputs.digests, start, stop - start),
            followed=Followed(start, step_store, inputs.digests),
        )
    builder = cache(partial(step.shard_builder, inputs))
    if not copies:
        builder()
    device = device_name()

    def work(number: int) -> float:
        # It may have been built by another driver, by a host that seemed lost, or by a worker that died after
        # its commit.
        if step_store.is_committed("shards", number, inputs.digests):
            return 0.0
        if number in copies and copied(step_store, number, inputs.digests, copies[number]):
            return 0.0
        note = attempt()
        step_store.note_attempt("shards", number, note)
        began = time.monotonic()
        try:
            start, stop = step.shard_range(number)
            columns = builder()(start, stop)
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
                metrics=_measurements(step, columns, device),
            )
        except Exception as error:
            # To this worker's log, which the note names.
            log.exception("%s shard %d failed", step.name, number)
            step_store.note_attempt("shards", number, note | failed(error))
            metrics.shard_failed(step.name)
            raise
        metrics.shard_done(step.name, seconds, rows)
        return seconds

    return work


def _measurements(step: SampleStep, columns: Columns, device: str) -> dict[str, Any]:
    """Returns the measurements of a shard for its receipt, with `warnings` about the worker if there are
    any."""
    measurements = dict(columns.metrics) if isinstance(columns, MeasuredColumns) else {}
    if device == "cpu" and step.network_evaluations(1):
        from dgflow.diffusion.bfloat16 import slow_bfloat16
        from dgflow.diffusion.float16 import SLOW

        slow = {"bfloat16": slow_bfloat16(), "float16": SLOW}
        warnings = {slow.get(work.precision, "") for work in step.work(1)} - {""}
        if warnings:
            measurements["warnings"] = sorted(warnings)
    return measurements
