"""GPUs of workers, the number of workers, and refusals before any of them starts."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import ray
import tiny
import torch

from dgflow.diffusion.acceleration import device
from dgflow.engine import execute as execution
from dgflow.runtime import cluster
from dgflow.runtime.environment import device_name
from dgflow.runtime.placement import Placement
from dgflow.runtime.pool import pool
from dgflow.runtime.progress import Progress
from dgflow.runtime.training import fit, worker
from dgflow.specs.graph import graph
from dgflow.specs.step import SampleStep
from dgflow.store.memory import MemoryStore

GPU_HOST, CPU_HOST = {"CPU": 12.0, "GPU": 2.0}, {"CPU": 12.0}


@pytest.fixture
def on(monkeypatch):
    """Simulates a connection to a machine with such resources."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "connect", lambda store: None)
    host = {"NodeID": "id", "NodeManagerHostname": "host", "Alive": True}
    return lambda resources: monkeypatch.setattr(ray, "nodes", lambda: [host | {"Resources": resources}])


@pytest.mark.parametrize(
    ("asked", "resources", "each"),
    [
        (None, GPU_HOST, 1.0),
        (None, CPU_HOST, 0.0),
        (0.0, GPU_HOST, 0.0),
        (0.5, GPU_HOST, 0.5),
        (0.0, CPU_HOST, 0.0),
    ],
)
def test_a_worker_has_the_gpus_that_were_asked_for_else_one_where_there_are_any(on, asked, resources, each):
    on(resources)
    assert cluster.resolved(Placement(workers=3, num_gpus=asked)) == Placement(workers=3, num_gpus=each)


def test_gpus_that_this_machine_has_not_are_refused_and_those_of_a_cluster_waited_for(on, monkeypatch):
    on(CPU_HOST)
    with pytest.raises(ValueError, match="expected GPUs for --num-gpus 0.5, found none on this machine"):
        cluster.resolved(Placement(num_gpus=0.5))
    on(GPU_HOST)
    with pytest.raises(ValueError, match="expected GPUs for --num-gpus 4, found 2 on this machine"):
        cluster.resolved(Placement(num_gpus=4))
    on(CPU_HOST)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert cluster.resolved(Placement(num_gpus=0.5)).num_gpus == 0.5


@pytest.fixture
def pools(monkeypatch):
    """Records the pools that are made and closed, in order."""
    told = []

    class FakePool:
        def __init__(self, max_workers, *, num_gpus, tell):
            assert max_workers is None and tell is None  # as many as fit on this machine
            self.made = num_gpus
            told.append(self.made)

        def close(self):
            told.append(("closed", self.made))

    monkeypatch.setattr(pool, "Pool", FakePool)
    return told


def test_without_gpus_all_steps_share_one_pool(on, pools):
    on(CPU_HOST)
    session = execution.Workers(MemoryStore(uuid4().hex), Placement(), Progress())
    assert session.pool(gpu=True) is session.pool(gpu=False)
    assert pools == [0.0]


def test_with_gpus_networks_get_workers_with_a_gpu_and_other_work_those_with_a_cpu(on, pools):
    on(GPU_HOST)
    session = execution.Workers(MemoryStore(uuid4().hex), Placement(), Progress())
    for gpu in (False, True, False, True):
        session.pool(gpu=gpu)
    assert pools == [0.0, 1.0]
    session.close()
    assert pools[2:] == [("closed", 0.0), ("closed", 1.0)]


def test_only_steps_that_run_networks_ask_for_gpus(tmp_path, monkeypatch):
    asked = {}
    for node in graph(tiny.workflow(str(tmp_path / "images.npz"))):
        if isinstance(node.step, SampleStep):
            state: Any = SimpleNamespace(wanted=[0], missing=[], copies={})
            workers: Any = SimpleNamespace(
                add=lambda step, _unit, gpu, *_: asked.update({step.kind: gpu}), progress=Progress()
            )
            monkeypatch.setattr(type(node.step), "check_source", lambda *_: None)
            unused: Any = None
            execution._shards(state, node.step, unused, unused, workers, unused)
    assert asked == {"import-images": False, "generate": True, "features": True}


@pytest.mark.parametrize(("visible", "expected"), [(None, "cuda"), ("0", "cuda"), ("", "cpu")])
def test_a_process_without_visible_gpus_computes_on_the_cpu_even_after_torch_has_counted_them(
    monkeypatch, visible, expected
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "cuda")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device().type == device_name() == expected


def test_workers_without_a_gpu_see_none_and_those_with_one_start_though_all_cpus_are_taken(own_ray):
    """Runs on a separate Ray, with one CPU and two declared GPUs that do not exist."""
    program = """
import json, os, ray
from dgflow.runtime.pool.pool import Pool
ray.init(num_cpus=1, num_gpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
seen = lambda: lambda item: os.environ.get("CUDA_VISIBLE_DEVICES")
with Pool(1) as cpus, Pool(2, num_gpus=1.0) as gpus:
    for pool in (cpus, gpus):
        found = set()
        assert not pool.map(seen, range(12), lambda item, result: found.add(result))
        print(json.dumps(sorted(found)))
"""
    found = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"DGFLOW_EMULATED_GPUS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    without, with_one = map(json.loads, found.stdout.splitlines()[-2:])
    assert without == [""] and with_one and set(with_one) <= {"0", "1"}


@pytest.mark.parametrize(
    ("resources", "placement", "expected"),
    [
        (CPU_HOST, Placement(num_gpus=0.0), (12, False, "gloo")),
        (CPU_HOST, Placement(num_gpus=0.0, train_workers=5), (5, False, "gloo")),
        (CPU_HOST, Placement(num_gpus=0.0, train_workers=14), (12, False, "gloo")),
        ({"CPU": 64.0}, Placement(num_gpus=0.0), (16, False, "gloo")),
        (GPU_HOST, Placement(num_gpus=0.0), (12, False, "gloo")),
        (GPU_HOST, Placement(num_gpus=0.5), (2, True, "nccl")),
        (GPU_HOST, Placement(num_gpus=1.0, train_workers=1), (1, True, "nccl")),
    ],
)
def test_training_takes_whole_gpus_or_none_and_as_many_workers_as_fit_and_have_a_slot_of_the_batch_each(
    on, monkeypatch, resources, placement, expected
):
    on(resources)
    started = []

    class Trainer:
        def __init__(self, _worker, *, scaling_config, torch_config, **_):
            started.append((scaling_config.num_workers, scaling_config.use_gpu, torch_config.backend))

        def fit(self):
            pass

    monkeypatch.setattr(fit, "TorchTrainer", Trainer)
    lease = SimpleNamespace(take=lambda: None, end=lambda: None, number=1)
    monkeypatch.setattr(fit, "Lease", lambda _: lease)
    steps: Any = SimpleNamespace(
        name="train-score-0", done=lambda *_: {}, is_committed=lambda _, number, __: number <= len(started)
    )
    make_task: Any = None
    fit.fit(make_task, steps, {}, epochs=1, batch_size=16, placement=placement, on_epoch=lambda _: None)
    assert started == [expected]


@pytest.mark.parametrize(
    ("use_gpu", "seen", "expected"),
    [
        (True, True, ["cuda:1", "cuda", "train"]),
        (False, True, ["cpu", "train"]),
        (True, False, ["cpu", "train"]),
    ],
)
def test_a_training_worker_takes_its_own_device_before_anything_is_loaded(
    monkeypatch, use_gpu, seen, expected
):
    order = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("DGFLOW_EMULATED_GPUS", "1")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "node"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
    monkeypatch.setattr(torch.cuda, "set_device", lambda place: order.append(str(place)))
    monkeypatch.setattr(worker, "get_device", lambda: torch.device("cuda:1"))
    monkeypatch.setattr(
        worker, "get_context", lambda: SimpleNamespace(get_world_rank=lambda: 1, get_world_size=lambda: 2)
    )
    monkeypatch.setattr(worker, "train", lambda *_, **__: order.append("train"))
    make_task: Any = lambda: order.append(device().type)  # noqa: E731
    steps: Any = None
    worker.work(worker.TrainingJob(make_task, steps, {}, 1, 0, 16, use_gpu, False, None))
    assert order == expected
