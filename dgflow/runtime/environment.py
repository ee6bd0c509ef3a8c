"""What a receipt says about where it was made."""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
from functools import cache
from importlib.metadata import version
from typing import Any


def attempt() -> dict[str, Any]:
    """Who is at work, for `status`."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}


def device_name() -> str:
    """The GPU that this process computes on, else `cpu`. Does not load torch: a step that has not needed it has used none."""
    if (torch := sys.modules.get("torch")) is None:
        return "cpu"
    from dgflow.diffusion.acceleration import device

    return torch.cuda.get_device_name() if device().type == "cuda" else "cpu"


def without_gpus() -> None:
    """From now on this process computes on the CPU, whatever GPUs the machine has: Ray does not hide them from who asked for none."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


@cache
def versions() -> dict[str, str]:
    """Versions that can change the numbers."""
    from dgflow import __version__  # not the package's metadata: a job's working directory is not installed

    own = {"dgflow": __version__, "python": platform.python_version(), "machine": platform.machine()}
    return own | {name: version(name) for name in ("torch", "numpy", "ray")}
