"""The function that Ray Train runs in each worker of a training: sets the device and runs the training loop.

Workers use NCCL if torch sees a GPU in each of them, otherwise gloo. A worker whose GPU is missing raises
NoDevice, unless GPUs are emulated (`devices.check_gpu`).
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
import torch
from ray.train import get_context
from ray.train.torch import TorchConfig, get_device
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dgflow.diffusion.acceleration import device
from dgflow.runtime.cluster import slots
from dgflow.runtime.devices import check_gpu
from dgflow.runtime.environment import without_gpus
from dgflow.runtime.ray_private import is_preempted
from dgflow.runtime.training.lease import Watch
from dgflow.runtime.training.loop import train
from dgflow.runtime.training.syncs import Wish
from dgflow.specs.training_task import TrainingTask
from dgflow.store.step_store import StepStore

GROWTH_SECONDS = 60.0  # minimum time between two starts: each costs 15 to 30 s
_SIOCGIFADDR = 0x8915  # Linux: the address of an interface


@dataclass
class TrainingJob:
    """The arguments of every worker. `wish` is the maximum number of workers, None for as many as fit;
    `claim`
    is the number of the driver's claim (`lease`)."""

    make_task: Callable[[], TrainingTask]
    step_store: StepStore
    inputs: Mapping[str, str]
    epochs: int
    done: int
    batch_size: int
    use_gpu: bool
    may_grow: bool
    wish: int | None
    claim: int = 0
    checkpoint_seconds: float = 0.0


def work(job: TrainingJob) -> None:
    """Trains; called in each worker."""
    context, began = get_context(), time.monotonic()
    world_size = context.get_world_size()
    if job.use_gpu:
        check_gpu(ray.get_runtime_context().get_node_id())
    if job.use_gpu and torch.cuda.is_available():
        # Each worker sees all GPUs of its node and would use the first one, so the device is set before the
        # task is made and before the first collective operation.
        torch.cuda.set_device(get_device())
    else:
        without_gpus()

    def enough() -> bool:
        return time.monotonic() - began >= GROWTH_SECONDS and room_for_more(job, world_size)

    watch = Watch(job.step_store, job.claim) if context.get_world_rank() == 0 else None

    def asks() -> Wish:
        if is_preempted():
            return Wish(save=True, leave=True)
        return Wish(leave=watch is not None and watch.lost)

    train(
        job.make_task(),
        job.step_store,
        job.inputs,
        epochs=job.epochs,
        rank=context.get_world_rank(),
        world_size=world_size,
        wrap=_shared if world_size > 1 else None,
        done=job.done,
        enough=enough if job.may_grow else None,
        checkpoint_seconds=job.checkpoint_seconds,
        asks=asks,
    )
    if watch is not None:
        watch.end()


def room_for_more(job: TrainingJob, workers: int) -> bool:
    """True if more than `workers` workers are wanted and the cluster has room for another one now."""
    if workers >= min(job.wish or job.batch_size, job.batch_size):
        return False
    # Both the total and the free resources count: other work on the cluster may use some.
    free = ray.available_resources().get("GPU" if job.use_gpu else "CPU", 0)
    return free >= 1 and slots(1.0 if job.use_gpu else 0.0) > workers


def _shared(network: nn.Module) -> nn.Module:
    device_ids = [torch.cuda.current_device()] if device().type == "cuda" else None
    return DistributedDataParallel(network, device_ids=device_ids, broadcast_buffers=False)


class ProcessGroup(TorchConfig):
    """Ray's configuration of the process group, with two changes.

    - If torch sees no GPU in a worker, gloo replaces NCCL. This is determined in the workers, because the
      driver's host may have no GPU.
    - Gloo listens at the address by which Ray knows the host. By default gloo resolves the host's name, which
      is loopback on many systems.
    """

    @property
    def backend_cls(self) -> type:
        return _Backend


class _Backend(TorchConfig().backend_cls):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        if backend_config.backend == "nccl" and not all(worker_group.execute(torch.cuda.is_available)):
            backend_config = replace(backend_config, backend="gloo")
        worker_group.execute(_listen_where_ray_does)
        super().on_start(worker_group, backend_config)


def _listen_where_ray_does() -> None:
    if name := interface_of(ray.util.get_node_ip_address()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def interface_of(address: str) -> str | None:
    """Returns the network interface that has this IPv4 address; None if there is none, or outside Linux."""
    if sys.platform != "linux":
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                answer = fcntl.ioctl(any_socket, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None
