"""What a receipt says about where it was made."""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
import traceback
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dgflow.runtime import ray_private


def attempt() -> dict[str, Any]:
    """Who is at work, for `status`: host, process, since when by its own clock, and the log file that Ray
    keeps of it on that host."""
    found: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
    log = ray_private.error_log() if "ray" in sys.modules else ""
    return found | ({"log": Path(log).name} if log else {})


def failed(error: BaseException) -> dict[str, Any]:
    """What `attempt` is completed with after an error: when, what, and the innermost line of the program that
    raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = (
        {"where": f"{Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}"}
        if frames
        else {}
    )
    return {"failed": time.time(), "error": str(error).strip() or type(error).__name__, **where}


def first_line(error: BaseException | None) -> str:
    """Of an error's message, for a log; its kind where it says nothing."""
    return (str(error or "").strip() or type(error).__name__).splitlines()[0]


def device_name() -> str:
    """The GPU that this process computes on, else `cpu`. Does not load torch: a step that has not needed it
    has used none."""
    if (torch := sys.modules.get("torch")) is None:
        return "cpu"
    from dgflow.diffusion.acceleration import device

    return torch.cuda.get_device_name() if device().type == "cuda" else "cpu"


def without_gpus() -> None:
    """From now on this process computes on the CPU, whatever GPUs the machine has: Ray does not hide them
    from who asked for none."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


@cache
def versions() -> dict[str, str]:
    """Versions that can change the numbers."""
    from dgflow._version import (
        __version__,
    )  # not the package's metadata: a job's working directory is not installed

    own = {"dgflow": __version__, "python": platform.python_version(), "machine": platform.machine()}
    return own | {name: version(name) for name in ("torch", "numpy", "ray")}
