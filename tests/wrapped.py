"""Processes that another one starts and waits for, as `nsenter --pid` and `unshare --fork` do."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path


def kill_wrapped(wrapper: subprocess.Popen) -> None:
    """Kill the child of `wrapper`, which reaps it and ends; `wrapper` itself where it has no child.

    A child that outlives its wrapper waits for the first process of this machine or container to reap it.
    Some never do, and then the child's whole PID namespace cannot end.
    """
    signal_wrapped(wrapper, signal.SIGKILL)


def signal_wrapped(wrapper: subprocess.Popen, number: int) -> None:
    """Send a signal to the child of `wrapper`, or to `wrapper` itself where it has no child."""
    if wrapper.poll() is None:
        children = Path(f"/proc/{wrapper.pid}/task/{wrapper.pid}/children").read_text().split()
        for pid in map(int, children or [wrapper.pid]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
