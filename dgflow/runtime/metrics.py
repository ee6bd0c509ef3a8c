"""What a run tells Prometheus, through Ray's own metrics export: shards, samples, failures, times, workers,
parts.

Promises that nothing here ever fails or holds up the work: without Ray nothing happens, and what goes wrong
    is dropped. Ray puts `ray_`
before each name. Every metric has the one tag `step`, the name of the step's folder: Ray and Prometheus keep
    a series for every value of a
tag, so that one which differed from shard to shard would grow with the shards. The counters are by worker
    (sum over it), and a worker's are
gone with it, so how far a run is tell `dgflow_parts_done` of the driver here and `status` from the root,
    which also knows of earlier runs.
"""

from __future__ import annotations

import contextlib
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.util.metrics import Counter, Gauge, Histogram

BUCKETS = [
    0.1,
    0.3,
    1,
    3,
    10,
    30,
    60,
    120,
    300,
    600,
    1200,
    1800,
    2700,
    3600,
    5400,
    7200,
    10_800,
]  # seconds: 0.1 s to 3 h


class _Metrics:
    """Made once a process, after Ray is there."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        def counter(name: str, what: str) -> Counter:
            return Counter(name, description=what, tag_keys=("step",))

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(name, description=what, tag_keys=("step",))

        self.shards = counter("dgflow_shards_total", "Shards built and committed by this worker.")
        self.samples = counter("dgflow_samples_total", "Samples in them.")
        self.failures = counter("dgflow_shard_failures_total", "Attempts at shards that ended in an error.")
        self.seconds: Histogram = Histogram(
            "dgflow_shard_seconds",
            description="Seconds that a shard took, without its commit.",
            boundaries=BUCKETS,
            tag_keys=("step",),
        )
        self.workers = gauge("dgflow_workers", "Workers that are there for this step.")
        self.done = gauge("dgflow_parts_done", "Shards or epochs of this step that are committed.")
        self.wanted = gauge("dgflow_parts_wanted", "Shards or epochs that the recipe asks for.")


def shard_done(kind: str, seconds: float, rows: int) -> None:
    """In a worker: a shard of `rows` samples of the step named `kind` (such as `generate-0123456789ab`) is
    committed."""
    with contextlib.suppress(Exception):
        if (metrics := _metrics()) is not None:
            tags = {"step": kind}
            metrics.shards.inc(1, tags)
            metrics.samples.inc(rows, tags)
            metrics.seconds.observe(seconds, tags)


def shard_failed(kind: str) -> None:
    """In a worker: an attempt at a shard ended in an error. Deaths of workers are not counted here."""
    with contextlib.suppress(Exception):
        if (metrics := _metrics()) is not None:
            metrics.failures.inc(1, {"step": kind})


def workers(kind: str, number: int) -> None:
    """In the driver: so many workers are there now; 0 when the step ends."""
    with contextlib.suppress(Exception):
        if (metrics := _metrics()) is not None:
            metrics.workers.set(number, {"step": kind})


def parts(kind: str, done: int, wanted: int) -> None:
    """In the driver: so many shards or epochs are committed, of so many that are asked for."""
    with contextlib.suppress(Exception):
        if (metrics := _metrics()) is not None:
            metrics.done.set(done, {"step": kind})
            metrics.wanted.set(wanted, {"step": kind})


def _metrics() -> _Metrics | None:
    """None where this process has not joined Ray: who builds shards without it does not load it for this."""
    ray = sys.modules.get("ray")
    return _made() if ray is not None and ray.is_initialized() else None


@cache
def _made() -> _Metrics:
    return _Metrics()
