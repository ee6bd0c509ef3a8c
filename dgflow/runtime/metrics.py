"""Metrics for Prometheus, through Ray's export: shards, samples, failures, times, workers, parts.

No failure here fails or delays the work: without Ray nothing is recorded, and errors are dropped. Ray puts
`ray_` before each name. The only tag, `step`, is the name of the step's folder: Ray and Prometheus keep a
series for every value of a tag, so a tag with a value per shard would grow with the shards. Counters are per
worker (sum over it) and end with it. Use `dgflow_parts_done` or `status` for progress; `status` also includes
earlier runs.
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
        self.samples = Counter("dgflow_samples_total", "Samples in them.", tags)
        self.failures = Counter(
            "dgflow_shard_failures_total", "Attempts at shards that ended in an error.", tags
        )
        self.seconds = Histogram(
            "dgflow_shard_seconds", "Seconds that a shard took, without its commit.", BUCKETS, tags
        )
        self.workers = Gauge("dgflow_workers", "Workers that are there for this step.", tags)
        self.done = Gauge("dgflow_parts_done", "Shards or epochs of this step that are committed.", tags)
        self.wanted = Gauge("dgflow_parts_wanted", "Shards or epochs that the recipe asks for.", tags)


def shard_done(step: str, seconds: float, rows: int) -> None:
    """Records in a worker that a shard of `rows` samples of `step` (such as `generate-0123456789ab`) is
    committed."""
    _tell(lambda metrics: metrics.shards.inc(1, {"step": step}))
    _tell(lambda metrics: metrics.samples.inc(rows, {"step": step}))
    _tell(lambda metrics: metrics.seconds.observe(seconds, {"step": step}))


def shard_failed(step: str) -> None:
    """Records in a worker that an attempt at a shard ended in an error. Deaths of workers are not counted
    here."""
    _tell(lambda metrics: metrics.failures.inc(1, {"step": step}))


def workers(step: str, number: int) -> None:
    """Records in the driver the current number of workers; 0 when the step ends."""
    _tell(lambda metrics: metrics.workers.set(number, {"step": step}))


def parts(step: str, done: int, wanted: int) -> None:
    """Records in the driver the number of committed shards or epochs, and the number requested."""
    _tell(lambda metrics: metrics.done.set(done, {"step": step}))
    _tell(lambda metrics: metrics.wanted.set(wanted, {"step": step}))


def _tell(change: Callable[[_Metrics], None]) -> None:
    with suppress(Exception):
        if (metrics := _metrics()) is not None:
            change(metrics)


def _metrics() -> _Metrics | None:
    """Returns None if this process has not joined Ray: a process that builds shards without Ray does not load
    it for metrics."""
    ray = sys.modules.get("ray")
    return _made_once() if ray is not None and ray.is_initialized() else None


@cache
def _made_once() -> _Metrics:
    return _Metrics()
