"""Where work is done, as far as the caller says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """Where work is done. None of it is identity: it changes how long a run takes, and of sample values at
    most the rounding.

    `workers` is the most processes that make shards, and `train_workers` that train. None: one for each CPU,
    or each GPU where there are any; on a cluster as many as there is room for, which may change, and for
    shards as many as its autoscaler may make room for. `num_gpus` is the GPUs of each worker that runs
    networks: fractions share one, 0 computes on the CPU, and None is one where the cluster has any, else
    none. Workers that run none have a CPU each.
    """

    workers: int | None = None
    train_workers: int | None = None
    num_gpus: float | None = None
