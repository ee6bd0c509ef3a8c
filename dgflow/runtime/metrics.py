"""Metrics for Prometheus, through Ray's export: shards, samples, failures, times, workers, parts.

Nothing here fails or delays the work: without Ray nothing happens, and what goes wrong is dropped. Ray puts
`ray_` before each name. The one tag, `step`, is the name of the step's folder: Ray and Prometheus keep a
series for every value of a tag, so one that differed by shard would grow with the shards. Counters are per
worker (sum over it) and end with it. Use `dgflow_parts_done` or `status` for progress; `status` also knows of
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
    """Made once per process, after Ray has started."""

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
    """In a worker: a shard of `rows` samples of `step` (such as `generate-0123456789ab`) is committed."""
    _tell(lambda metrics: metrics.shards.inc(1, {"step": step}))
    _tell(lambda metrics: metrics.samples.inc(rows, {"step": step}))
    _tell(lambda metrics: metrics.seconds.observe(seconds, {"step": step}))


def shard_failed(step: str) -> None:
    """In a worker: an attempt at a shard ended in an error. Deaths of workers are not counted here."""
    _tell(lambda metrics: metrics.failures.inc(1, {"step": step}))


def workers(step: str, number: int) -> None:
    """In the driver: the number of workers now; 0 when the step ends."""
    _tell(lambda metrics: metrics.workers.set(number, {"step": step}))


def parts(step: str, done: int, wanted: int) -> None:
    """In the driver: the shards or epochs that are committed, and those that are asked for."""
    _tell(lambda metrics: metrics.done.set(done, {"step": step}))
    _tell(lambda metrics: metrics.wanted.set(wanted, {"step": step}))


def _tell(change: Callable[[_Metrics], None]) -> None:
    with suppress(Exception):
        if (metrics := _metrics()) is not None:
            change(metrics)


def _metrics() -> _Metrics | None:
    """None where this process has not joined Ray: who builds shards without Ray does not load it for this."""
    ray = sys.modules.get("ray")
    return _made_once() if ray is not None and ray.is_initialized() else None


@cache
def _made_once() -> _Metrics:
    return _Metrics()
