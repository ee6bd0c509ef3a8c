"""Selection of the backend that runs the workers: Ray, or local processes if Ray is not installed."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from dgflow.extras import installed, require
from dgflow.runtime import machine
from dgflow.runtime.placement import Placement
from dgflow.store.objects import ObjectStore

if TYPE_CHECKING:
    from dgflow.runtime.pool.fleet import Fleet


def check() -> None:
    """Raises ValueError if a package is missing, Ray cannot start here, or the cluster does not answer.

    The message says what to install or to set. Called before any work.
    """
    require("torch", "computing")
    if machine.elastic():
        require("ray", f"the cluster at RAY_ADDRESS={os.environ['RAY_ADDRESS']}")
    if installed("ray"):
        machine.check_ray()


def connect(store: ObjectStore, placement: Placement) -> Placement:
    """Joins or starts Ray if it is installed. Returns `placement` with the GPUs per worker resolved.

    Raises:
        ValueError: as `cluster.connect`, or for GPUs that this machine does not have.
    """
    if installed("ray"):
        from dgflow.runtime import cluster

        cluster.connect(store)
        return cluster.resolved(placement)
    has_gpus = bool(machine.gpus())
    if placement.num_gpus and not has_gpus:
        raise placement.without_gpus()
    return replace(placement, num_gpus=float(has_gpus)) if placement.num_gpus is None else placement


def fleet(num_gpus: float) -> Fleet:
    """Returns the fleet whose workers have `num_gpus` GPUs each; with 0, a CPU each and no GPU."""
    if installed("ray"):
        from dgflow.runtime.pool.ray_fleet import RayFleet

        return RayFleet(num_gpus)
    from dgflow.runtime.pool.process_fleet import ProcessFleet

    return ProcessFleet(num_gpus)
