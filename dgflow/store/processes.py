"""Identifies a process, so that another one on the same host can tell that it has ended.

A number of a process says little: it is used again, and another container has the same numbers. So the boot
of the host, the namespace of the numbers and the start of the process go with it. Linux only; elsewhere
nothing is known.
"""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Process(BaseModel):
    """A process of a host, told apart from earlier and later ones with its number."""

    model_config = ConfigDict(frozen=True)

    pid: int
    boot: str  # the host's random name of its present boot
    namespace: str  # of process numbers
    start: int  # in ticks of the clock since the boot


def this_process() -> Process | None:
    """This process; None where the system does not say."""
    return _process(os.getpid())


def has_ended(process: Process) -> bool | None:
    """Tells if the process has ended; None where that cannot be seen from here."""
    here = this_process()
    if here is None or (here.boot, here.namespace) != (process.boot, process.namespace):
        return None
    return _process(process.pid) != process


def _process(pid: int) -> Process | None:
    """The process with this number now; None where there is none, or only its remains."""
    proc = Path("/proc")
    try:
        # The name of the program stands in brackets, and may hold anything.
        state, *fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        if state in "ZX":
            return None
        boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink(proc / "self/ns/pid")
        return Process(pid=pid, boot=boot, namespace=namespace, start=int(fields[18]))
    except (OSError, ValueError, IndexError):
        return None
