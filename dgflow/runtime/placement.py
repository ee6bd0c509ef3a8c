"""The resources that a run may use: processes and devices."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """Resources of a run. Not part of identity: they affect the duration of a run and at most the rounding of
    sample values.

    Attributes:
        workers: maximum number of processes that build shards. None: one per GPU if there are GPUs, otherwise
            one per CPU; on a cluster as many as fit, including hosts that an autoscaler may add.
        train_workers: maximum number of processes that train. None: as for `workers`, but only on hosts that
            exist.
        num_gpus: GPUs per worker that runs networks. A fraction shares one GPU, and 0 computes on the CPU.
            None: 1 if there are GPUs, otherwise 0. Other workers have a CPU each.
        checkpoint_minutes: time between two checkpoints within an epoch of a training, which limits the work
            that is lost by a kill. 0: checkpoints only at the ends of epochs.
    """

    workers: int | None = None
    train_workers: int | None = None
    num_gpus: float | None = None
    checkpoint_minutes: float = 10.0

    def without_gpus(self, available: int = 0) -> ValueError:
        """Returns the error for a machine that has too few GPUs for a worker."""
        return ValueError(
            f"expected GPUs for --num-gpus {self.num_gpus:g}, found {available or 'none'} on this machine; "
            "omit the option"
        )
