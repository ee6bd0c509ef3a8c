"""The resources of this machine, and checks that Ray can start on it or join the cluster that RAY_ADDRESS
names.

The checks run before Ray's own, which retry for minutes or name no variable. They raise ValueError with the
variable and what to set. Ray is loaded only to find the cluster that `auto` means.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path

ANSWER_SECONDS = 5.0
# glibc returns large blocks to the system immediately and then pays for their page faults again. If they are
# kept, a training step of the digits' discriminator takes 44 ms of CPU instead of 61, and 250 guided samples
# 2.4 s instead of 2.8 (one thread, AMD EPYC).
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "268435456",
    "MALLOC_TRIM_THRESHOLD_": "268435456",
    "MALLOC_TOP_PAD_": "67108864",
}
"""Environment variables of a worker on this machine."""
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_SOCKET_BYTES = 107  # the system's limit for the path of a socket
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # HTTP/2, and empty settings
_SETTINGS = 4  # the kind of the frame that every HTTP/2 server sends first


def elastic() -> bool:
    """True if `RAY_ADDRESS` names a cluster (`ray job submit` sets it), whose hosts may come and go."""
    return os.environ.get("RAY_ADDRESS", "local") not in ("", "local")


def cpus() -> int:
    """Returns the CPUs that this process may use: those in its affinity mask, within its container's
    quota."""
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
    """Checks that the cluster that RAY_ADDRESS names answers, or that Ray can start here; does nothing once
    Ray runs."""
    if (loaded := sys.modules.get("ray")) is not None and loaded.is_initialized():
        return
    check_address(os.environ["RAY_ADDRESS"]) if elastic() else check_local()


def check_local() -> None:
    """Checks that Ray can start here: the folder of its sockets, and the home folder with its token."""
    _check_temporary()
    _check_home()


def check_address(address: str) -> None:
    """Checks that a cluster answers at a value of RAY_ADDRESS."""
    if address == "auto":
        from dgflow.runtime.ray_private import running_cluster

        if (found := running_cluster()) is None:
            raise ValueError(
                "expected a Ray cluster on this host, as RAY_ADDRESS=auto says, found none; start one (`ray "
                "start --head`), give its address as RAY_ADDRESS=host:port, or unset RAY_ADDRESS to compute "
                "on this machine alone"
            )
        _check_answer(found, f"RAY_ADDRESS=auto, which {_address_file()} or a process here says is {found}")
        return
    if address.startswith(("http://", "https://")):
        raise ValueError(
            f"expected RAY_ADDRESS=host:port of a cluster's head, such as 10.0.0.1:6379, found {address}, "
            "the address of its dashboard; submit to that by `ray job submit --address`"
        )
    _check_answer(address.removeprefix("ray://"), f"RAY_ADDRESS={address}")


def _check_answer(address: str, named: str) -> None:
    """Checks that a gRPC server answers at host:port; `named` tells messages where the address comes from."""
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
        raise ValueError(
            f"expected a Ray cluster at {named}, found something that does not answer as Ray does; {remedy}"
        )


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
    """Returns Ray's choice of a folder for temporary files, and the variable that names it."""
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
            f"expected {variable} of at most {length - excess} bytes, for Ray's sockets below it, found "
            f"{length}: {folder}; set RAY_TMPDIR to a shorter folder, as in RAY_TMPDIR=/tmp"
        )
    try:
        os.makedirs(f"{folder}/ray", exist_ok=True)
        with tempfile.TemporaryFile(dir=f"{folder}/ray"):
            pass
    except OSError as error:
        raise ValueError(
            f"expected a folder that can be written to at {variable}={folder}, for Ray's files below it, "
            f"found: {error.strerror}; set RAY_TMPDIR to another folder"
        ) from error


def _check_home() -> None:
    """Checks the home folder, into which Ray writes the token of its own cluster."""
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if given or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    remedy = (
        "set HOME to a folder that can be written to (XDG_CACHE_HOME moves downloads alone), or give a token "
        "in RAY_AUTH_TOKEN"
    )
    try:
        token = Path.home() / ".ray" / "auth_token"
    except RuntimeError as error:
        raise ValueError(
            f"expected a home folder, for Ray's token, found HOME unset and none of this user; {remedy}"
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
