"""Connects to Ray, and computes how many workers fit, now and with all hosts that an autoscaler may add.

Ray is either the cluster that `RAY_ADDRESS` names, or a local instance on loopback that ends with the
process.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
import yaml
from ray.exceptions import AuthenticationError, NodeDiedError, TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dgflow.runtime import ray_private
from dgflow.runtime.environment import first_line
from dgflow.runtime.machine import ALLOCATOR, check_address, check_local, elastic
from dgflow.runtime.placement import Placement
from dgflow.store.objects import ObjectStore, StoreError
from dgflow.store.runs import FOLDER

log = logging.getLogger(__name__)


def connect(store: ObjectStore) -> None:
    """Joins the cluster that `RAY_ADDRESS` names, or starts Ray locally.

    Raises:
        ValueError: the cluster cannot be reached or refuses the token; it has, or may start, hosts that
            cannot see the root; or Ray cannot start on this machine.
    """
    if not ray.is_initialized():
        if elastic():
            _join(os.environ["RAY_ADDRESS"])
        else:
            for name, value in ALLOCATOR.items():
                os.environ.setdefault(name, value)  # the workers inherit it
            # On one host polling is cheap, and frequent polling detects a death sooner.
            os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
            # No cloud reclaims this host. A watcher for that would take 4 s of CPU per training.
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
            check_local()
            ray_private.start_on_loopback()
    if store.shared:
        return
    if autoscaler_maximum() is not None:
        lacking = "the cluster has an autoscaler, and nodes that it starts may not see"
    elif blind := _hosts_without(store):
        lacking = f"{', '.join(blind)} of the cluster's {len(hosts())} nodes cannot see"
    else:
        return
    raise ValueError(
        f"{lacking} the root {store.url}; use a root that all nodes share: --root s3://bucket/prefix, or a "
        "folder of a file system that all nodes mount at the same path"
    )


def _hosts_without(store: ObjectStore) -> list[str]:
    """Returns the names of the hosts that do not see what this process writes to `store`; empty on a shared
    file system."""
    if len(nodes := hosts()) == 1:
        return []
    key = f"{FOLDER}/{uuid4().hex}.seen"
    store.put(key, b"seen")
    try:
        sees = ray.remote(num_cpus=0)(_sees)
        strategies = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
        answers = [sees.options(scheduling_strategy=each).remote(store, key) for each in strategies]
        return [name for name, answer in zip(nodes.values(), answers, strict=True) if not _seen(answer)]
    finally:
        store.delete(key)


def _seen(answer: ray.ObjectRef) -> bool:
    try:
        return ray.get(answer)
    except (NodeDiedError, TaskUnschedulableError):  # the host was lost meanwhile
        return True


def _sees(store: ObjectStore, key: str) -> bool:
    try:
        return store.size(key) is not None
    except StoreError:  # for example, that host has no permission to read
        return False


def _join(address: str) -> None:
    if address != "auto":
        check_address(address)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except (AuthenticationError, ConnectionError) as error:
        raise ValueError(
            f"the Ray cluster at RAY_ADDRESS={address} refuses this process: {first_line(error)}. If it "
            "requires a token, set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, and RAY_AUTH_MODE=token"
        ) from error
    except RuntimeError as error:  # such as different versions of Ray or Python
        raise ValueError(
            f"the Ray cluster at RAY_ADDRESS={address} cannot be joined: {first_line(error)}; this process "
            "and the cluster need the same versions of Ray and Python, and a host of the cluster to run on"
        ) from error


def hosts() -> dict[str, str]:
    """Returns the names of the hosts that are alive, by id. A host that was lost and returns has a new id."""
    return {
        node["NodeID"]: node["NodeManagerHostname"] or node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"]
    }


def resolved(placement: Placement) -> Placement:
    """Returns `placement` with the GPUs per worker resolved. Raises ValueError for GPUs that this machine
    does not have."""
    largest = max((each.get("GPU", 0) for each in _resources()), default=0)
    if placement.num_gpus is None:
        return replace(
            placement, num_gpus=1.0 if largest or (autoscaler_maximum() or {}).get("GPU", 0) else 0.0
        )
    if placement.num_gpus > largest:
        if not elastic():
            raise placement.without_gpus(int(largest))
        available = f"no host with more than {largest:g} GPUs" if largest else "no GPU"
        log.warning("the cluster has %s now; waiting until it starts hosts with enough GPUs", available)
    return placement


def slots(num_gpus: float) -> int:
    """Returns the number of workers that fit on the hosts that are alive and not draining. A worker takes
    `num_gpus` GPUs, or a CPU if that is 0. At least 1 on a single machine; may be 0 on a cluster."""
    draining = ray_private.draining() if elastic() else set[str]()
    fit = sum(_fit(each, num_gpus) for each in _resources(without=draining))
    return fit if elastic() else max(1, fit)


def most_slots(num_gpus: float) -> int:
    """Returns the number of workers that fit with all hosts that the autoscaler may add; `sys.maxsize` if its
    limits are unknown."""
    return max(slots(num_gpus), _fit(autoscaler_maximum() or {}, num_gpus))


def _resources(*, without: Collection[str] = ()) -> list[Mapping[str, float]]:
    """Returns the CPUs and GPUs of each host that is alive, except those `without`."""
    nodes = (node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in without)
    return [node.get("Resources", {}) for node in nodes]


def _fit(resources: Mapping[str, float], num_gpus: float) -> int:
    """Returns the number of workers that fit on a host. A worker with a fraction of a GPU uses one GPU only,
    so three workers with 0.3 each share a GPU."""
    if not num_gpus:
        fit = resources.get("CPU", 0)
    elif num_gpus < 1:
        fit = resources.get("GPU", 0) * int(1 / num_gpus)
    else:
        fit = resources.get("GPU", 0) / num_gpus
    return int(min(fit, sys.maxsize))


def autoscaler_maximum() -> Mapping[str, float] | None:
    """Returns the CPUs and GPUs to which the autoscaler may grow the cluster: infinite if its limits are
    unknown, None without an autoscaler.

    Some autoscalers report their limits. `ray up` leaves its configuration, with the resources of every node
    type, in the head's home folder, where a submitted job can read it. KubeRay only reports that it has an
    autoscaler.
    """
    if not elastic():
        return None
    if (reported := ray_private.reported_maximum()) is not None:
        return reported
    try:
        return configured_maximum(
            yaml.safe_load(Path("~/ray_bootstrap_config.yaml").expanduser().read_text())
        )
    except (OSError, RuntimeError):  # no such file, or no home folder
        return {"CPU": math.inf, "GPU": math.inf} if ray_private.has_autoscaler() else None


def configured_maximum(configuration: dict[str, Any]) -> dict[str, float]:
    """Returns the CPUs and GPUs of a cluster with all the nodes that `ray up`'s configuration allows."""
    workers = configuration.get("max_workers", 2)  # Ray's own default
    types = dict(configuration["available_node_types"])
    head = types.pop(configuration["head_node_type"])
    total = {}
    for resource in ("CPU", "GPU"):
        total[resource], left = head.get("resources", {}).get(resource, 0), workers
        amounts = [
            (node.get("resources", {}).get(resource, 0), node.get("max_workers", workers))
            for node in types.values()
        ]
        for amount, nodes in sorted(amounts, reverse=True):
            total[resource] += amount * min(nodes, left)
            left -= min(nodes, left)
    return total
