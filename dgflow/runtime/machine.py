"""The resources of this machine, and checks that Ray can start on it or join the cluster that RAY_ADDRESS
names.

The checks run before Ray's own, which retry for minutes and do not name the variable at fault. They raise
ValueError, which names the variable and what to set. Ray is loaded only for RAY_ADDRESS=auto.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path

ANSWER_SECONDS = 5.0
# By default glibc returns large blocks to the system immediately, and new blocks cause page faults again.
# With these settings it keeps them: a training step of the digits' discriminator takes 44 ms of CPU instead
# of 61, and 250 guided samples 2.4 s instead of 2.8 (one thread, AMD EPYC).
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "268435456",
    "MALLOC_TRIM_THRESHOLD_": "268435456",
    "MALLOC_TOP_PAD_": "67108864",
}
"""Environment variables of a worker on this machine."""
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_SOCKET_BYTES = 107  # the system's limit for the path of a socket
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # HTTP/2, and empty settings
_SETTINGS = 4  # type of the frame that every HTTP/2 server sends first


def elastic() -> bool:
    """True if `RAY_ADDRESS` names a cluster (`ray job submit` sets it), whose hosts may come and go."""
    return os.environ.get("RAY_ADDRESS", "local") not in ("", "local")


def cpus() -> int:
    """Returns the number of CPUs that this process may use, by its affinity mask and the quota of its
    container."""
    bound = len(os.sched_getaffinity(0))
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, min(bound, int(quota) // int(period)))
    except (OSError, ValueError):  # another version of cgroups, or no quota ("max")
        return bound


def gpus() -> list[str]:
    """Returns the GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    import torch

    visible, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    return [str(number) for number in range(count)] if visible is None else visible.split(",")[:count]


def check_ray() -> None:
    """Checks that the cluster at RAY_ADDRESS answers, or without RAY_ADDRESS, that Ray can start here. Does
    nothing if Ray is running already."""
    if (loaded := sys.modules.get("ray")) is not None and loaded.is_initialized():
        return
    check_address(os.environ["RAY_ADDRESS"]) if elastic() else check_local()


def check_local() -> None:
    """Checks that Ray can start here: that it can write sockets to the temporary folder, and its token to the
    home folder."""
    _check_temporary()
    _check_home()


def check_address(address: str) -> None:
    """Checks that a cluster answers at a value of RAY_ADDRESS."""
    if address == "auto":
        from dgflow.runtime.ray_private import running_cluster

        if (cluster := running_cluster()) is None:
            raise ValueError(
                "expected a Ray cluster on this host, as RAY_ADDRESS=auto says, found none; start one (`ray "
                "start --head`), give its address as RAY_ADDRESS=host:port, or unset RAY_ADDRESS to compute "
                "on this machine alone"
            )
        origin = f"{cluster} according to {_address_file()} or a running process"
        _check_answer(cluster, f"RAY_ADDRESS=auto, which is {origin}")
        return
    if address.startswith(("http://", "https://")):
        raise ValueError(
            f"expected RAY_ADDRESS=host:port of a cluster's head, such as 10.0.0.1:6379, found {address}, "
            "the address of its dashboard; use that one with `ray job submit --address`"
        )
    _check_answer(address.removeprefix("ray://"), f"RAY_ADDRESS={address}")


def _check_answer(address: str, named: str) -> None:
    """Checks that a gRPC server answers at host:port. Messages use `named`, which says where the address
    comes from."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(
            "expected RAY_ADDRESS=host:port of a cluster's head, such as 10.0.0.1:6379, or auto, found "
            f"{named}"
        )
    remedy = "correct RAY_ADDRESS, start the cluster, or unset it to compute on this machine alone"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS) as connection:
            speaks = os.environ.get("RAY_USE_TLS") == "1" or _speaks_grpc(connection)
    except OSError as error:
        raise ValueError(
            f"expected a Ray cluster at {named}, found nothing that answers there: {error}; {remedy}"
        ) from error
    if not speaks:
        raise ValueError(f"expected a Ray cluster at {named}, found a server that is not Ray; {remedy}")


def _speaks_grpc(connection: socket.socket) -> bool:
    """True if the server answers in HTTP/2."""
    try:
        connection.sendall(_PREFACE)
        head = b""
        while len(head) < 4 and (data := connection.recv(64)):
            head += data
    except TimeoutError:
        return False
    return len(head) >= 4 and head[3] == _SETTINGS


def _temporary() -> tuple[str, str]:
    """Returns the folder that Ray uses for temporary files, and the variable that sets it."""
    for variable in ("RAY_TMPDIR", "TMPDIR"):
        if variable in os.environ:
            return os.environ[variable], variable
    return "/tmp", "TMPDIR"


def _address_file() -> str:
    return f"{_temporary()[0]}/ray/ray_current_cluster"


def _check_temporary() -> None:
    folder, variable = _temporary()
    sockets = f"{folder}/ray/session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    if (excess := len(os.fsencode(sockets)) - _SOCKET_BYTES) > 0:
        length = len(os.fsencode(folder))
        raise ValueError(
            f"expected {variable} of at most {length - excess} bytes, for Ray's sockets in that folder, "
            "found "
            f"{length}: {folder}; set RAY_TMPDIR to a shorter path, such as RAY_TMPDIR=/tmp"
        )
    try:
        os.makedirs(f"{folder}/ray", exist_ok=True)
        with tempfile.TemporaryFile(dir=f"{folder}/ray"):
            pass
    except OSError as error:
        raise ValueError(
            f"expected a writable folder at {variable}={folder}, for Ray's files, found: {error.strerror}; "
            "set RAY_TMPDIR to another folder"
        ) from error


def _check_home() -> None:
    """Checks the home folder, where Ray stores the token of a cluster that it starts."""
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if given or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    remedy = (
        "set HOME to a writable folder (XDG_CACHE_HOME moves only downloads), or set a token in "
        "RAY_AUTH_TOKEN"
    )
    try:
        token = Path.home() / ".ray" / "auth_token"
    except RuntimeError as error:
        raise ValueError(
            "expected a home folder, for Ray's token, found neither HOME nor an entry for this user; "
            f"{remedy}"
        ) from error
    try:
        if token.exists():
            token.read_bytes()
            return
        token.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=token.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"expected a home folder for Ray's token at {token}, found that HOME={Path.home()} cannot be "
            f"used ({error.strerror}); {remedy}"
        ) from error
