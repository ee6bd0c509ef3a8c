"""Connecting to Ray: a cluster if one is named, else a Ray of our own on loopback that ends with the process."""

from __future__ import annotations

import logging
import os
from dataclasses import replace

import ray

from dgflow.runtime.placement import Placement
from dgflow.store.objects import ObjectStore

log = logging.getLogger(__name__)

# glibc gives large blocks back to the system at once and then pays for their page faults again. Kept, a training step of the digits'
# discriminator takes 44 ms of CPU instead of 61, and 250 guided samples 2.4 s instead of 2.8 (one thread, AMD EPYC).
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "268435456", "MALLOC_TRIM_THRESHOLD_": "268435456", "MALLOC_TOP_PAD_": "67108864"}


def connect(store: ObjectStore) -> None:
    """Join the cluster that `RAY_ADDRESS` names (`ray job submit` sets it), else start Ray in here, on loopback, without a dashboard.

    Raises:
        ValueError: the cluster has other nodes, which cannot see the root.
    """
    if not ray.is_initialized():
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        else:
            for name, value in ALLOCATOR.items():
                os.environ.setdefault(name, value)  # the workers inherit it
            os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # one host: polling is cheap, and a death is seen sooner
            ray.init(
                address="local",
                _node_ip_address="127.0.0.1",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) > 1 and not store.shared:
        raise ValueError(
            f"the cluster has {len(nodes)} nodes, which cannot all see the root {store.url}; "
            "give one that they share, as in --root s3://bucket/prefix"
        )


def resolved(placement: Placement) -> Placement:
    """`placement` with the GPUs of each worker decided: as asked for, else one where the cluster has any and none where it has none.

    Raises:
        ValueError: GPUs are asked for, and this machine has none.
    """
    gpus = ray.cluster_resources().get("GPU", 0)
    if placement.num_gpus is None:
        return replace(placement, num_gpus=1.0 if gpus else 0.0)
    if placement.num_gpus and not gpus:
        if not os.environ.get("RAY_ADDRESS"):
            raise ValueError(f"expected GPUs for --num-gpus {placement.num_gpus:g}, found none on this machine; leave the option out")
        log.warning("the cluster has no GPU now; waiting until it starts nodes that have some")
    return placement


def slots(num_gpus: float) -> int:
    """How many workers the cluster has room for now."""
    resources = ray.cluster_resources()
    return max(1, int(resources.get("GPU", 0) / num_gpus) if num_gpus else int(resources.get("CPU", 1)))
