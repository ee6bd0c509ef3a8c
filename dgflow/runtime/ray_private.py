"""All uses of Ray's private interfaces, one function per use.

`pyproject.toml` limits Ray to the minor versions with which `tests/runtime/test_ray_private.py` passes.
Imports are inside the functions, so importing this module does not load Ray.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def _part(name: str) -> Iterator[None]:
    """Returns a context that raises ImportError, which says what to do, if Ray lacks the interface `name`."""
    try:
        yield
    except (ImportError, AttributeError) as error:
        import ray

        raise ImportError(
            f"expected {name}, which is not public, in Ray, found Ray {ray.__version__} without it; install "
            "a version of Ray that pyproject.toml allows, or adapt dgflow/runtime/ray_private.py"
        ) from error


def start_on_loopback() -> None:
    """Starts Ray in this process, listening only on 127.0.0.1, without a dashboard.

    By default Ray replaces 127.0.0.1 by the host's own address and listens on all interfaces. An environment
    variable of Ray would prevent this, but child processes would inherit it, so a constant is set instead.
    The autoscaler's monitor and the log monitor are not started: a single machine does not need them, and
    each takes a second of CPU to start.

    Raises ValueError if Ray's processes do not answer in the time that Ray gives them.
    """
    import ray

    with _part("ray._private.ray_constants.ENABLE_RAY_CLUSTER"):
        from ray._private import ray_constants

        _ = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        with _without_monitors():
            ray.init(
                address="local",
                _node_ip_address="127.0.0.1",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:  # Ray raises a plain Exception
        if "timed out during startup" not in str(error):
            raise
        raise ValueError(
            "expected Ray to start on this machine, found no answer from its processes within 30 s; run the "
            "same command again when the machine is less busy, and if that fails, see the logs in "
            "/tmp/ray/session_latest/logs"
        ) from error


@contextmanager
def _without_monitors() -> Iterator[None]:
    """Returns a context in which Ray starts neither the autoscaler's monitor nor the log monitor."""
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
    """Returns the address to which Ray resolves RAY_ADDRESS=auto; None if there is none. It belongs to a
    cluster that runs on this host, or to the last one that was started here, which may have ended."""
    with _part("ray._private.services.get_ray_address_from_environment"):
        from ray._private.services import get_ray_address_from_environment
    try:
        return get_ray_address_from_environment("auto", None)
    except ConnectionError:
        return None


def error_log() -> str:
    """Returns the file that receives this worker's standard error; empty if this process is not a Ray
    worker."""
    with _part("ray._private.worker.global_worker.get_err_file_path"):
        from ray._private.worker import global_worker

        path = global_worker.get_err_file_path
    return path() if global_worker.connected else ""


def reported_maximum() -> Mapping[str, float] | None:
    """Returns the resources to which the autoscaler may grow the cluster; None if it has not reported
    them."""
    with _part("ray._private.state.state.get_max_resources_from_cluster_config"):
        from ray._private.state import state

        query = state.get_max_resources_from_cluster_config
    return query()


def has_autoscaler() -> bool:
    """True if the cluster was started for Ray's current autoscaler (v2), as `ray up` and KubeRay do."""
    with _part("ray.autoscaler.v2.utils.is_autoscaler_v2"):
        from ray.autoscaler.v2.utils import is_autoscaler_v2
    return is_autoscaler_v2(fetch_from_server=True)


def set_note(name: str) -> None:
    """Sets a flag in the cluster's key-value store, visible to every connected process."""
    with _part("ray.experimental.internal_kv._internal_kv_put"):
        from ray.experimental.internal_kv import _internal_kv_put
    _internal_kv_put(name.encode(), b"1")


def has_note(name: str) -> bool:
    """True if the flag is set."""
    with _part("ray.experimental.internal_kv._internal_kv_exists"):
        from ray.experimental.internal_kv import _internal_kv_exists
    return _internal_kv_exists(name.encode())


def remove_note(name: str) -> None:
    with _part("ray.experimental.internal_kv._internal_kv_del"):
        from ray.experimental.internal_kv import _internal_kv_del
    _internal_kv_del(name.encode())


def is_error_of_ray_train(error: BaseException) -> bool:
    """True for an error of Ray Train itself, False for one that a worker's code raised."""
    with _part("ray.train.v2._internal.exceptions.RayTrainError"):
        from ray.train.v2._internal.exceptions import RayTrainError
    return isinstance(error, RayTrainError)


def is_start_timeout(error: BaseException | None) -> bool:
    """True if the workers of a training did not start in time, for example for lack of resources."""
    with _part("ray.train.v2._internal.exceptions.WorkerGroupStartupTimeoutError"):
        from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
    return isinstance(error, WorkerGroupStartupTimeoutError)


def raised_by_worker(failure: Exception) -> BaseException:
    """Returns the error that a worker's code raised, without Ray Train's wrapping; any other error
    unchanged."""
    with _part("ray.train.v2._internal.exceptions.UserExceptionWithTraceback"):
        from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

        return failure._base_exc if isinstance(failure, UserExceptionWithTraceback) else failure


def is_preempted() -> bool:
    """True if the host of any worker of this training will be reclaimed; called in a worker of Ray Train.

    Ray Train queries the cluster every 5 s and informs each worker, so the call makes no request. The public
    function is a barrier of all workers.
    """
    with _part("ray.train.v2._internal.execution.context.get_train_context().preemption_context"):
        from ray.train.v2._internal.execution.context import get_train_context

        return get_train_context().preemption_context.preemption_info is not None


def draining() -> set[str]:
    """Returns the ids of the hosts that will be reclaimed and receive no new work."""
    with _part("ray._private.state.state.get_draining_nodes"):
        from ray._private.state import state

        query = state.get_draining_nodes
    return set(query())
