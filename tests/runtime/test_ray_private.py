"""The parts of Ray outside its public interface do what dgflow needs, on the installed Ray.

Each test names one part. If a Ray has moved it, `ray_private` says which part that is and what to do.
"""

import ast
import os
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from packaging.requirements import Requirement
from ray import cloudpickle
from ray._private import ray_constants
from ray.train import PreemptionInfo
from ray.train.v2._internal import constants, exceptions
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution import context, preemption

from dgflow.runtime import ray_private
from dgflow.runtime.machine import check_address

REPOSITORY = Path(__file__).resolve().parents[2]
INTERNAL = ("ray.experimental", "ray.autoscaler.v2")

# The workers cannot import this file: they receive its functions by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def in_a_worker(function):
    return ray.get(ray.remote(num_cpus=0)(function).remote())


def test_a_part_that_ray_moved_is_named_with_what_to_do():
    with (
        pytest.raises(ImportError, match=f"expected ray.x, .*found Ray {ray.__version__}.*ray_private.py"),
        ray_private._part("ray.x"),
    ):
        from ray import x  # pyright: ignore  # noqa: F401


def test_only_one_file_uses_what_ray_keeps_to_itself():
    used = set()
    for path in (REPOSITORY / "dgflow").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                if name.startswith("ray.") and ("._" in name or name.startswith(INTERNAL)):
                    used.add(path.name)
    assert used == {"ray_private.py"}


def test_ray_is_bounded_to_the_minor_version_that_this_file_passes_with():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    [allowed] = [
        each for each in map(Requirement, project["optional-dependencies"]["run"]) if each.name == "ray"
    ]
    major, minor, _ = ray.__version__.split(".")
    assert allowed.specifier.contains(ray.__version__)
    assert not allowed.specifier.contains(f"{major}.{int(minor) + 1}.0")


def test_a_training_on_one_machine_has_no_process_that_watches_for_hosts_taken_away(local_ray):
    """Ray Train reads the variable by this name, and the controller gets it from the driver."""
    name = constants.ENABLE_PREEMPTION_WATCHER_ENV_VAR
    assert get_env_vars_to_propagate()[name] == os.environ[name] == "0"


def test_ray_of_our_own_listens_on_loopback(local_ray):
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]


def test_ray_of_our_own_has_no_process_that_one_machine_has_no_use_for(local_ray):
    """Each of them takes a second of CPU in every run."""
    processes = set(ray._private.worker._global_node.all_processes)  # pyright: ignore
    assert {"raylet", "gcs_server"} <= processes
    assert not processes & {"monitor", "log_monitor"}


def test_a_worker_knows_the_file_of_its_standard_error(local_ray):
    path, pid = in_a_worker(lambda: (ray_private.error_log(), ray.get_runtime_context().get_worker_id()))
    assert Path(path).suffix == ".err" and pid in path and Path(path).exists()


def test_a_ray_without_autoscaler_reports_no_maximum(local_ray):
    assert ray_private.reported_maximum() is None


def test_a_maximum_that_an_autoscaler_reported_is_found(local_ray):
    from ray import _raylet
    from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig  # pyright: ignore
    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

    group = NodeGroupConfig(resources={"CPU": 4, "GPU": 1}, max_count=3)
    key = _raylet.GCS_AUTOSCALER_CLUSTER_CONFIG_KEY  # pyright: ignore
    namespace = _raylet.GCS_AUTOSCALER_STATE_NAMESPACE  # pyright: ignore
    configuration = ClusterConfig(node_group_configs=[group]).SerializeToString()
    _internal_kv_put(key, configuration, namespace=namespace)
    try:
        assert ray_private.reported_maximum() == {"CPU": 12, "GPU": 3}
    finally:
        _internal_kv_del(key, namespace=namespace)


def test_a_ray_without_autoscaler_is_known_to_have_none(local_ray):
    assert ray_private.has_autoscaler() is False


def test_a_note_is_seen_by_a_worker_until_it_is_removed(local_ray):
    seen = [in_a_worker(lambda: ray_private.has_note("dgflow-test"))]
    ray_private.set_note("dgflow-test")
    seen.append(in_a_worker(lambda: ray_private.has_note("dgflow-test")))
    ray_private.remove_note("dgflow-test")
    seen.append(in_a_worker(lambda: ray_private.has_note("dgflow-test")))
    assert seen == [False, True, False]


def test_a_cluster_that_loses_no_host_is_known_to_lose_none(local_ray):
    assert ray_private.draining() == set()


def test_a_worker_reads_what_ray_train_told_it_of_hosts_that_will_be_taken_away(monkeypatch):
    """`tests/cluster/test_faults_training.py` drains a host."""
    told = preemption.PreemptionContext()
    monkeypatch.setattr(context, "get_train_context", lambda: SimpleNamespace(preemption_context=told))
    assert not ray_private.is_preempted()
    told.preemption_info = PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"a": [1]})
    assert ray_private.is_preempted()


def test_errors_of_ray_train_are_told_from_others():
    assert ray_private.is_error_of_ray_train(exceptions.WorkerHealthCheckTimeoutError("silent"))
    assert not ray_private.is_error_of_ray_train(ValueError("bad"))


def test_workers_that_did_not_start_in_time_are_told_from_other_errors():
    assert ray_private.is_start_timeout(exceptions.WorkerGroupStartupTimeoutError(3))
    assert not ray_private.is_start_timeout(exceptions.WorkerGroupStartupFailedError("a worker died"))
    assert not ray_private.is_start_timeout(None)


def test_what_a_worker_raised_is_found_in_its_wrapping():
    raised = ValueError("bad")
    assert ray_private.raised_by_worker(exceptions.UserExceptionWithTraceback(raised, "Traceback")) is raised
    assert ray_private.raised_by_worker(raised) is raised


def test_a_cluster_that_runs_here_is_found_and_answers_before_it_is_joined(local_ray, monkeypatch):
    """`ray start` writes the address to a file; a cluster of `ray.init` is found by its process."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_address(ray.get_runtime_context().gcs_address)
    assert (ray_private.running_cluster() or "").rpartition(":")[2].isdigit()


def test_a_ray_that_does_not_answer_in_time_is_an_error_with_a_remedy(monkeypatch):
    def slow(**options):
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray, "init", slow)
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)  # restored after the test
    with pytest.raises(ValueError, match="found no answer from its processes within 30 s; run the same"):
        ray_private.start_on_loopback()
