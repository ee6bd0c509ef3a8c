"""The processes and devices that a caller asks for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """None of it is identity: it changes how long a run takes, and at most the rounding of sample values.

    `workers` limits the processes that make shards, `train_workers` those that train. None: one per CPU, or
    per GPU where there are any; on a cluster as many as there is room for, which may change, and for shards
    as many as its autoscaler may make room for. `num_gpus` is the GPUs per worker that runs networks:
    fractions share one, 0 computes on the CPU, None is one where the cluster has any, else none. Other
    workers have a CPU each. `checkpoint_minutes` are between two checkpoints within an epoch of a training,
    which a kill costs at most; 0 writes those at the ends of epochs alone.
    """

    workers: int | None = None
    train_workers: int | None = None
    num_gpus: float | None = None
    checkpoint_minutes: float = 10.0

    def without_gpus(self, there: int = 0) -> ValueError:
        """The error of a machine that has too few GPUs for a worker."""
        return ValueError(
            f"expected GPUs for --num-gpus {self.num_gpus:g}, found {there or 'none'} on this machine; leave "
            "the option out"
        )
