"""Everything that dgflow uses of Ray beside its public interface, one function for each part.

`pyproject.toml` bounds Ray to the minor versions that `tests/runtime/test_ray_private.py` passes with.
Imports stand in the functions: a process that has not loaded Ray does not load it for these.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def _part(name: str) -> Iterator[None]:
    """Raises ImportError, saying what to do, where this Ray has no such part."""
    try:
        yield
    except (ImportError, AttributeError) as error:
        import ray

        raise ImportError(
            f"expected {name}, which is not public, in Ray, found Ray {ray.__version__} without it; install "
            "a version of Ray that pyproject.toml allows, or adapt dgflow/runtime/ray_private.py"
        ) from error


def start_on_loopback() -> None:
    """Start Ray in this process, listening on 127.0.0.1 alone, without a dashboard.

    Ray otherwise takes this host's own address in place of 127.0.0.1 and listens on all. Its environment
    variable for that would be passed on to this process's children. The autoscaler's monitor and the monitor
    of logs are left out: one machine has no use for them, and each takes a second of CPU to start.
    """
    import ray

    with _part("ray._private.ray_constants.ENABLE_RAY_CLUSTER"):
        from ray._private import ray_constants

        _ = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    with _without_monitors():
        ray.init(
            address="local",
            _node_ip_address="127.0.0.1",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


@contextmanager
def _without_monitors() -> Iterator[None]:
    """Context in which Ray starts without the autoscaler's monitor and without the monitor of logs."""
    with _part("ray._private.node.Node"):
        from ray._private import node

        whole = node.Node

    def started(*, ray_params: Any, **options: Any) -> Any:
        ray_params.no_monitor, ray_params.include_log_monitor = True, False
        return whole(ray_params=ray_params, **options)

    node.Node = started  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        node.Node = whole  # type: ignore[misc]


def running_cluster() -> str | None:
    """The address that RAY_ADDRESS=auto means: of a cluster that runs here, or that was last started here and
    may have ended; None without one."""
    with _part("ray._private.services.get_ray_address_from_environment"):
        from ray._private.services import get_ray_address_from_environment
    try:
        return get_ray_address_from_environment("auto", None)
    except ConnectionError:
        return None


def error_log() -> str:
    """The file that this worker's standard error goes to; empty where this process is none of Ray's
    workers."""
    with _part("ray._private.worker.global_worker.get_err_file_path"):
        from ray._private.worker import global_worker

        path = global_worker.get_err_file_path
    return path() if global_worker.connected else ""


def reported_maximum() -> Mapping[str, float] | None:
    """The resources that the cluster's autoscaler may bring it to, as far as it has reported them."""
    with _part("ray._private.state.state.get_max_resources_from_cluster_config"):
        from ray._private.state import state

        ask = state.get_max_resources_from_cluster_config
    return ask()


def has_autoscaler() -> bool:
    """Tells if the cluster was started for Ray's present autoscaler (v2), as `ray up` and KubeRay do."""
    with _part("ray.autoscaler.v2.utils.is_autoscaler_v2"):
        from ray.autoscaler.v2.utils import is_autoscaler_v2
    return is_autoscaler_v2(fetch_from_server=True)


def set_note(name: str) -> None:
    """Leave a note on the cluster, which every process that is connected to it sees."""
    with _part("ray.experimental.internal_kv._internal_kv_put"):
        from ray.experimental.internal_kv import _internal_kv_put
    _internal_kv_put(name.encode(), b"1")


def has_note(name: str) -> bool:
    """Tells if such a note is there."""
    with _part("ray.experimental.internal_kv._internal_kv_exists"):
        from ray.experimental.internal_kv import _internal_kv_exists
    return _internal_kv_exists(name.encode())


def remove_note(name: str) -> None:
    with _part("ray.experimental.internal_kv._internal_kv_del"):
        from ray.experimental.internal_kv import _internal_kv_del
    _internal_kv_del(name.encode())


def is_error_of_ray_train(error: BaseException) -> bool:
    """Tells an error of Ray Train itself from one that a worker's code raised."""
    with _part("ray.train.v2._internal.exceptions.RayTrainError"):
        from ray.train.v2._internal.exceptions import RayTrainError
    return isinstance(error, RayTrainError)


def is_start_timeout(error: BaseException | None) -> bool:
    """Tells if workers of a training did not start in time, as where there is no room for them."""
    with _part("ray.train.v2._internal.exceptions.WorkerGroupStartupTimeoutError"):
        from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
    return isinstance(error, WorkerGroupStartupTimeoutError)


def raised_by_worker(failure: Exception) -> BaseException:
    """The error that a worker's code raised, without Ray Train's wrapping; any other error as it is."""
    with _part("ray.train.v2._internal.exceptions.UserExceptionWithTraceback"):
        from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

        return failure._base_exc if isinstance(failure, UserExceptionWithTraceback) else failure


def is_preempted() -> bool:
    """Tells, in a worker of Ray Train, if the host of one of the workers will be taken away.

    Ray Train asks the cluster every 5 s, and tells each worker. Reading that costs nothing; the public
    function is a barrier of all workers.
    """
    with _part("ray.train.v2._internal.execution.context.get_train_context().preemption_context"):
        from ray.train.v2._internal.execution.context import get_train_context

        return get_train_context().preemption_context.preemption_info is not None


def draining() -> set[str]:
    """The ids of the hosts that will be taken away, on which nothing new is placed."""
    with _part("ray._private.state.state.get_draining_nodes"):
        from ray._private.state import state

        ask = state.get_draining_nodes
    return set(ask())
