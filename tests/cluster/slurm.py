"""A stand-in for Slurm: hosts as nodes, `srun` and `scontrol`, and the variables that a batch script has.

Like Slurm's, `srun` starts a command on nodes of the job, forwards signals to it (but SIGTERM kills it), and
ends with its highest exit status. Run as a program, this file is `srun`: it sends its request, and its
output, to the `Slurm` of the tests, which can enter the hosts.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.hosts import Host, Process

_SOCKET = "STAND_IN_SLURM"
_TESTS = Path(__file__).resolve().parents[1]


class Slurm:
    """Jobs on hosts. Use as a context; `folder` is shared by all of them, and is each job's home."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self._programs = folder / "bin"
        self._jobs: dict[str, Sequence[Host]] = {}
        self._listener = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Slurm:
        self.home.mkdir(parents=True)
        self._programs.mkdir()
        for name, script in {
            "srun": f'exec {sys.executable} {__file__} "$@"',
            "scontrol": f'echo "$@" >> {self.folder}/scontrol',
        }.items():
            (self._programs / name).write_text(f"#!/bin/sh\n{script}\n")
            (self._programs / name).chmod(0o755)
        self._listener.bind(f"{self.folder}/slurm")
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def sbatch(
        self, nodes: Sequence[Host], number: int, script: Path, *arguments: str, container: str = ""
    ) -> Process:
        """Starts a batch script on the first of its nodes, each of which has a CPU and an emulated GPU."""
        self._jobs[str(number)] = nodes
        path = f"{self._programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables = {
            "SLURM_JOB_ID": str(number),
            "SLURM_JOB_NUM_NODES": str(len(nodes)),
            "SLURMD_NODENAME": nodes[0].name,
            "SLURM_CPUS_PER_TASK": "1",
            "PATH": path,
            "HOME": str(self.home),
            "RAY_TMPDIR": "/mnt",  # a node's own
            "DGFLOW_CONTAINER": container,
            "DGFLOW_EMULATED_GPUS": "1",
            "PYTHONPATH": f"{_TESTS.parent}:{_TESTS}",
            _SOCKET: f"{self.folder}/slurm",
        }
        return nodes[0].run(["bash", str(script), *arguments], variables)

    @property
    def requeued(self) -> str:
        """The requests to `scontrol`."""
        asked = self.folder / "scontrol"
        return asked.read_text() if asked.exists() else ""

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._step, args=[connection], daemon=True).start()

    def _step(self, connection: socket.socket) -> None:
        """Runs the request of one `srun`: its request is a line, and so is each signal; the answer is the
        status."""
        begun, outputs, *_ = socket.recv_fds(connection, 1, 2)
        lines = connection.makefile("rb")
        options, environment = json.loads(begun + lines.readline())
        asked = _parsed(options)
        job = self._jobs[environment["SLURM_JOB_ID"]]
        nodes = [
            host
            for host in job
            if host.name in (asked.nodelist or host.name).split(",") and host.name != asked.exclude
        ][: asked.nodes]
        assert len(nodes) == asked.nodes == asked.ntasks, options
        environment |= {
            "SLURM_LAUNCH_NODE_IPADDR": job[0].address,
            "SLURM_CPUS_PER_TASK": str(asked.cpus_per_task),
            "SLURM_GPUS_ON_NODE": "1",
        }
        tasks = [
            subprocess.Popen(
                [*host.enter(), "setpriv", "--pdeathsig", "KILL", *asked.command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=outputs[0],
                stderr=outputs[1],
            )
            for host in nodes
        ]
        for output in outputs:
            os.close(output)
        threading.Thread(target=_forward, args=[lines, tasks], daemon=True).start()
        status = max(task.wait() for task in tasks)
        connection.sendall(b"%d\n" % status)


def _forward(lines, tasks: list[subprocess.Popen]) -> None:
    from wrapped import signal_wrapped

    for line in lines:
        for task in tasks:
            signal_wrapped(task, int(line))


def _parsed(options: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("srun", allow_abbrev=False)
    for number in ("nodes", "ntasks", "cpus-per-task", "kill-on-bad-exit", "wait"):
        parser.add_argument(f"--{number}", type=int, default=1)
    for name in ("nodelist", "exclude"):
        parser.add_argument(f"--{name}")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser.parse_args(options)


def srun() -> int:
    """Runs as the program `srun`: returns the status of the step."""
    with socket.socket(socket.AF_UNIX) as slurm:
        slurm.connect(os.environ[_SOCKET])
        for number, forwarded in {signal.SIGUSR1: signal.SIGUSR1, signal.SIGTERM: signal.SIGKILL}.items():
            signal.signal(number, lambda *_, forwarded=forwarded: slurm.sendall(b"%d\n" % forwarded))
        request = json.dumps([sys.argv[1:], dict(os.environ)]).encode() + b"\n"
        socket.send_fds(slurm, [request], [1, 2])
        return int(slurm.makefile().readline())


if __name__ == "__main__":
    sys.exit(srun())
