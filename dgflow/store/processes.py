"""Identify a process, so that another process on the same host can tell that it has ended.

A process id alone is ambiguous: ids are reused, and containers have their own. The identity therefore
includes the host's boot id, the PID namespace and the start time of the process. Linux only; elsewhere the
identity is unknown.
"""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Process(BaseModel):
    """A process of a host, distinguished from earlier and later processes with the same id."""

    model_config = ConfigDict(frozen=True)

    pid: int
    boot: str  # the host's boot id, random per boot
    namespace: str  # the PID namespace
    start: int  # start time in clock ticks since the boot


def this_process() -> Process | None:
    """Identify this process; None if the system does not provide the information."""
    return _process(os.getpid())


def has_ended(process: Process) -> bool | None:
    """True if the process has ended; None if that cannot be determined from here."""
    here = this_process()
    if here is None or (here.boot, here.namespace) != (process.boot, process.namespace):
        return None
    return _process(process.pid) != process


def _process(pid: int) -> Process | None:
    """Identify the process that now has this id; None if there is none, or only a zombie."""
    proc = Path("/proc")
    try:
        # The program's name is in parentheses and may contain any character.
        state, *fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        if state in "ZX":
            return None
        boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink(proc / "self/ns/pid")
        return Process(pid=pid, boot=boot, namespace=namespace, start=int(fields[18]))
    except (OSError, ValueError, IndexError):
        return None
