"""Hosts for tests as namespaces of this machine: each has its own network, host name, processes, `/tmp/ray`
and `/dev/shm`.

A `Network` is a switch (a bridge in its own namespace) and the hosts on it, in 10.99.0.0/24; nothing is added
to this machine's own network, and there is no route out of it. All of it ends with the context, and with this
process however it ends: the first process of a host dies with this one, and the kernel ends the others with
the first. Files are shared between hosts, except `/tmp/ray` and `/mnt`, where each host has its own
(temporary files, caches).

Needs root and iproute2, and util-linux' `unshare`, `nsenter`, `setpriv`; `lacking` names what is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from listening import family
from seaweed import seaweed
from wrapped import kill_wrapped, signal_wrapped

T = TypeVar("T")

DEADLINE = 300.0  # seconds, the timeout of every wait: two cores may start eight hosts at once
GCS_PORT = 6379
_NEWNET = 0x40000000  # CLONE_NEWNET
_DIES_WITH_ITS_PARENT = ("setpriv", "--pdeathsig", "KILL")
_DISK = "/mnt"  # a host's own disk: a short path, since Ray's sockets are below it
_OBJECT_STORE_BYTES = 80_000_000  # Ray's minimum is 75 MB
_NO_OTHER_SETTINGS = ("AWS_", "RAY_", "DGFLOW_")  # settings of the person who runs the tests


def lacking() -> str | None:
    """Returns the reason why there can be no hosts here, or None."""
    if os.geteuid():
        return "hosts as network namespaces need root"
    missing = [program for program in ("ip", "unshare", "nsenter", "setpriv") if not shutil.which(program)]
    if missing:
        return f"hosts as network namespaces need {', '.join(missing)} (packages iproute2 and util-linux)"
    try:
        tried = subprocess.run(
            ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "true"],
            capture_output=True,
            text=True,
        )
    except OSError as error:
        return f"hosts as network namespaces cannot be made here: {error}"
    return (
        f"hosts as network namespaces cannot be made here: {tried.stderr.strip()}"
        if tried.returncode
        else None
    )


def wait_for(condition: Callable[[], T], what: str, seconds: float = DEADLINE) -> T:
    """Polls until `condition()` returns a true value, and returns it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"no {what} after {seconds:.0f} s"
        time.sleep(0.1)
    return found


class Process:
    """A command on a host, with its output in a file. It ends when it is killed here, and with its host."""

    def __init__(self, command: Sequence[str], env: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self._outside = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def status(self) -> int | None:
        """The exit status, None while the command runs."""
        return self._outside.poll()

    def kill(self) -> None:
        kill_wrapped(self._outside)
        self._outside.wait()

    def signal(self, number: int) -> None:
        """Sends a signal to the command, and to none of its children."""
        signal_wrapped(self._outside, number)

    def wait(self, seconds: float = DEADLINE) -> int:
        try:
            return self._outside.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds:.0f} s:\n{self.output}") from None

    def finish(self, seconds: float = DEADLINE) -> str:
        """Returns the output, once the command has ended with status 0."""
        assert self.wait(seconds) == 0, self.output
        return self.output

    def wait_for(self, condition: Callable[[], T], what: str, seconds: float = DEADLINE) -> T:
        """Polls until `condition()` is true; the process may not end before."""

        def found() -> T:
            ended = self.status is not None
            value = condition()
            assert value or not ended, f"the process ended with {self.status} before {what}:\n{self.output}"
            return value

        try:
            return wait_for(found, what, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output[-6000:]}") from None

    def says(self, text: str, seconds: float = DEADLINE) -> None:
        self.wait_for(lambda: text in self.output, repr(text), seconds)


class Host:
    """One host: an idle first process, and the namespaces that it holds."""

    def __init__(
        self, name: str, address: str, folder: Path, env: dict[str, str], disk_mb: float | None
    ) -> None:
        self.name, self.address, self.folder = name, address, folder
        self.env = {
            **env,
            "TMPDIR": f"{_DISK}/tmp",
            "XDG_CACHE_HOME": f"{_DISK}/cache",
            "HOME": f"{_DISK}/home",
        }
        self._commands = 0
        (folder / "disk").mkdir(parents=True)
        Path("/tmp/ray").mkdir(exist_ok=True)
        own = f"--bind {folder}/disk" if disk_mb is None else f"-t tmpfs -o size={int(disk_mb * 1024)}k tmpfs"
        lines = (
            f"hostname {name}",
            "ip link set lo up",
            f"mount {own} {_DISK}",
            f"mkdir -p {_DISK}/tmp {_DISK}/cache {_DISK}/home {_DISK}/ray",
            f"mount --bind {_DISK}/ray /tmp/ray",
            "mount -t tmpfs tmpfs /dev/shm",
            "echo ready",
            # So that the kernel ends every process in here
            "exec env --ignore-signal=CHLD sleep infinity",
        )
        self._outside = subprocess.Popen(
            [
                *_DIES_WITH_ITS_PARENT,
                "unshare",
                "--net",
                "--uts",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ]
            + ["sh", "-ec", "\n".join(lines)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._outside.stdout is not None
        if self._outside.stdout.readline() != "ready\n":
            raise RuntimeError(
                f"the host {name} did not come up; its commands are on the standard error above"
            )
        children = Path(f"/proc/{self._outside.pid}/task/{self._outside.pid}/children").read_text().split()
        self.pid = int(children[0])  # of its first process, in this machine's numbering

    def enter(self, *namespaces: str) -> list[str]:
        """Returns the beginning of a command that runs in the host (all of it, or only its network)."""
        return [
            "nsenter",
            "--target",
            str(self.pid),
            *(namespaces or ("--net", "--uts", "--mount", "--pid")),
            "--",
        ]

    def run(self, command: Sequence[str], env: dict[str, str] | None = None) -> Process:
        """Starts a command on the host."""
        self._commands += 1
        log = self.folder / f"{self._commands:02d}-{Path(command[0]).name}.log"
        return Process([*self.enter(), *_DIES_WITH_ITS_PARENT, *command], {**self.env, **(env or {})}, log)

    def processes(self) -> list[int]:
        """Returns the processes on the host besides its first one, in this machine's numbering."""
        return family(self.pid)[1:]

    def signal(self, name: str, pid: int) -> None:
        """Sends a signal to a process by its number on the host; does nothing if it has ended."""
        subprocess.run([*self.enter(), "kill", f"-{name}", str(pid)], stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        """Ends all processes of the host at once, by SIGKILL: the host is lost."""
        self.end()
        self._outside.wait()  # ends once all of the host's processes have

    def end(self) -> None:
        """Ends the host as `kill` does, without waiting."""
        kill_wrapped(self._outside)  # the first process, which ends all others


class Network:
    """A switch and hosts on it. Use as a context; while it is open, this thread is on it too, as the host
    `laptop`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts: dict[str, Host] = {}
        self.s3: dict[str, str] = {}  # the environment of S3's clients, once a server runs
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Network:
        with self._closing:
            self._closing.callback(self._kill_all)
            self._switch = Host("switch", "", self.folder / "switch", _base_env(), None)
            self._closing.callback(self._switch.kill)
            self._ip(self._switch, "link add bridge type bridge forward_delay 0")
            self._ip(self._switch, "link set bridge up")
            self._closing.enter_context(_inside(self.host("laptop")))
            self._closing = self._closing.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def host(self, name: str, *, disk_mb: float | None = None) -> Host:
        """Adds a host; its name may not have been used. `disk_mb`: the size of its disk, None for this
        machine's size."""
        host = Host(
            name, f"10.99.0.{len(self.hosts) + 1}", self.folder / name, {**_base_env(), **self.s3}, disk_mb
        )
        self.hosts[name] = host
        self._ip(self._switch, f"link add {_port(host)} type veth peer name eth0 netns {host.pid}")
        self._ip(self._switch, f"link set {_port(host)} master bridge up")
        self._ip(host, f"address add {host.address}/24 dev eth0")
        self._ip(host, "link set eth0 up")
        self._ip(
            host, "route add default dev eth0"
        )  # leads nowhere; Ray learns its own address from the existence of a route
        return host

    def link(self, host: Host, state: str) -> None:
        """Disconnects a host's cable from the switch ("down"), or reconnects it ("up")."""
        self._ip(self._switch, f"link set {_port(host)} {state}")

    def cut(self, host: Host, other: Host) -> None:
        """Drops what a host sends to another one, but nothing that it sends to others."""
        self._ip(host, f"neighbour replace {other.address} lladdr 02:00:00:00:00:01 nud permanent dev eth0")

    def start_s3(self, host: Host) -> dict[str, str]:
        """Starts an S3 server on a host; returns the environment for its clients, which all hosts have from
        now on, with `BUCKET_URL`."""
        start = seaweed(host.folder, address=host.address, prefix=[*host.enter(), *_DIES_WITH_ITS_PARENT])
        self.s3 = {**self._closing.enter_context(start), "DGFLOW_PLAIN_HTTP": "1"}
        for each in self.hosts.values():
            each.env.update(self.s3)
        return self.s3

    def _kill_all(self) -> None:
        for host in self.hosts.values():
            host.end()
        for host in self.hosts.values():
            host.kill()

    @staticmethod
    def _ip(host: Host, command: str) -> None:
        done = subprocess.run([*host.enter("--net"), "ip", *command.split()], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"ip {command} on {host.name}: {done.stderr.strip()}")


def ray_head(host: Host, *options: str, env: dict[str, str] | None = None, num_cpus: int = 0) -> Process:
    """Starts Ray's head on a host, and waits until it is ready.

    It has no dashboard and no token, unless `options` and `env` set them.
    """
    dashboard = (
        []
        if any(option.startswith("--include-dashboard") for option in options)
        else ["--include-dashboard=false"]
    )
    return _ray(
        host,
        [
            "--head",
            f"--port={GCS_PORT}",
            "--temp-dir=/tmp/ray",
            f"--num-cpus={num_cpus}",
            "--num-gpus=0",
            *dashboard,
            *options,
        ],
        env,
    )


def ray_worker(
    host: Host,
    head: Host,
    *,
    num_cpus: int = 1,
    num_gpus: int = 0,
    env: dict[str, str] | None = None,
    ready: bool = True,
) -> Process:
    """Starts Ray on a host that joins a head's; `num_gpus` are emulated.

    With `ready` it has joined when this returns.
    """
    options = [f"--address={head.address}:{GCS_PORT}", f"--num-cpus={num_cpus}", f"--num-gpus={num_gpus}"]
    return _ray(host, options, env, ready)


def _ray(host: Host, options: Sequence[str], env: dict[str, str] | None, ready: bool = True) -> Process:
    common = [
        f"--node-ip-address={host.address}",
        f"--object-store-memory={_OBJECT_STORE_BYTES}",
        "--disable-usage-stats",
        "--block",
    ]
    ray = host.run(
        [str(Path(sys.executable).parent / "ray"), "start", *options, *common],
        {"RAY_AUTH_MODE": "disabled", **(env or {})},
    )
    if ready:
        ray.says("Ray runtime started")
    return ray


def _base_env() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(_NO_OTHER_SETTINGS)}
    emulated = {"DGFLOW_EMULATED_GPUS": "1"}  # GPUs are emulated, and the CPU computes
    return {**own, **emulated, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "RAY_AUTH_MODE": "disabled"}


def _port(host: Host) -> str:
    """Returns the switch's end of a host's cable; names of interfaces are short."""
    return f"to-{host.address.rsplit('.', 1)[1]}"


@contextlib.contextmanager
def _inside(host: Host) -> Iterator[None]:
    """Moves this thread, and those that it starts, into the host's network."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    within = os.open(f"/proc/{host.pid}/ns/net", os.O_RDONLY)
    try:
        _enter_network(within)
        yield
    finally:
        _enter_network(before)
        os.close(before)
        os.close(within)


def _enter_network(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _NEWNET):
        raise OSError(ctypes.get_errno(), "cannot enter the network namespace")
    import fsspec.asyn
    import s3fs

    fsspec.asyn.iothread[0] = fsspec.asyn.loop[0] = (
        None  # s3fs' thread stays in its old network: the next user starts another
    )
    s3fs.S3FileSystem.clear_instance_cache()
