"""Metrics for Prometheus, through Ray's export: shards, samples, failures, times, workers, parts.

Metrics never fail or delay the work: without Ray nothing is recorded, and errors are dropped. Ray prefixes
each name with `ray_`. The only tag is `step`, the name of the step's folder. Ray and Prometheus keep one
series per value of a tag, so a tag with a value per shard would use ever more memory. Counters are per worker
and end with it; sum them over the workers. Use `dgflow_parts_done` or `status` for progress; only `status`
includes earlier runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache

# Seconds: 0.1 s to 3 h
BUCKETS = [0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1200, 1800, 2700, 3600, 5400, 7200, 10_800]


class _Metrics:
    """The metrics of a process, created once, after Ray has started."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        tags = ("step",)
        self.shards = Counter("dgflow_shards_total", "Shards built and committed by this worker.", tags)
        self.samples = Counter("dgflow_samples_total", "Samples in the shards of this worker.", tags)
        self.failures = Counter(
            "dgflow_shard_failures_total", "Attempts to build a shard that ended in an error.", tags
        )
        self.seconds = Histogram(
            "dgflow_shard_seconds", "Seconds to build a shard, without its commit.", BUCKETS, tags
        )
        self.workers = Gauge("dgflow_workers", "Workers that are ready for this step.", tags)
        self.done = Gauge("dgflow_parts_done", "Shards or epochs of this step that are committed.", tags)
        self.wanted = Gauge("dgflow_parts_wanted", "Shards or epochs that the recipe needs.", tags)


def shard_done(step: str, seconds: float, rows: int) -> None:
    """Counts a committed shard of `rows` samples of `step` (such as `generate-0123456789ab`); called by
    workers."""
    _tell(lambda metrics: metrics.shards.inc(1, {"step": step}))
    _tell(lambda metrics: metrics.samples.inc(rows, {"step": step}))
    _tell(lambda metrics: metrics.seconds.observe(seconds, {"step": step}))


def shard_failed(step: str) -> None:
    """Counts an attempt at a shard that ended in an error; called by workers, so deaths are not counted."""
    _tell(lambda metrics: metrics.failures.inc(1, {"step": step}))


def workers(step: str, number: int) -> None:
    """Sets the current number of workers, 0 when the step ends; called by the driver."""
    _tell(lambda metrics: metrics.workers.set(number, {"step": step}))


def parts(step: str, done: int, wanted: int) -> None:
    """Sets the numbers of committed and of needed shards or epochs; called by the driver."""
    _tell(lambda metrics: metrics.done.set(done, {"step": step}))
    _tell(lambda metrics: metrics.wanted.set(wanted, {"step": step}))


def _tell(change: Callable[[_Metrics], None]) -> None:
    with suppress(Exception):
        if (metrics := _metrics()) is not None:
            change(metrics)


def _metrics() -> _Metrics | None:
    """Returns the metrics of this process; None if it has not joined Ray, which is not loaded for metrics."""
    ray = sys.modules.get("ray")
    return _created_once() if ray is not None and ray.is_initialized() else None


@cache
def _created_once() -> _Metrics:
    return _Metrics()
