"""The processes and devices that a caller requests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """Resources of a run. They are not part of identity: they affect the duration of a run, and at most the
    rounding of sample values.

    `workers` limits the processes that build shards, `train_workers` those that train. None: one per CPU, or
    per GPU if there are any. On a cluster, None means as many as fit, a number that may change; for shards it
    includes what the autoscaler may add. `num_gpus` is the GPUs per worker that runs networks: fractions
    share one GPU, 0 computes on the CPU, None is one if the cluster has any, else none. Other workers have a
    CPU each. `checkpoint_minutes` is the time between two checkpoints within an epoch of a training, and so
    the most that a kill costs; 0 writes only those at the ends of epochs.
    """

    workers: int | None = None
    train_workers: int | None = None
    num_gpus: float | None = None
    checkpoint_minutes: float = 10.0

    def without_gpus(self, there: int = 0) -> ValueError:
        """Returns the error for a machine that has too few GPUs for a worker."""
        return ValueError(
            f"expected GPUs for --num-gpus {self.num_gpus:g}, found {there or 'none'} on this machine; leave "
            "the option out"
        )
