"""Where work is done, as far as the caller says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """Where work is done. None of it is identity: it changes how long a run takes, and of sample values at most the rounding.

    `workers` is the number of processes that make shards, and `train_workers` of those that train (None: one for each CPU, or each GPU
    where there are any).
    """

    workers: int | None = None
    train_workers: int | None = None
    num_gpus: float = 0.0  # GPUs of each worker; fractions share one
