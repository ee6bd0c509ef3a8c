"""Describes the current process for receipts and notes: host, log, versions, device."""

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

from dgflow._version import __version__  # not the package's metadata: a job's folder is not installed
from dgflow.extras import installed
from dgflow.runtime import ray_private
from dgflow.runtime.devices import driver


def attempt() -> dict[str, Any]:
    """Returns the identity of the current process for the note of an attempt: host, process id, time of
    start by its own clock, and name of its log file."""
    log = ray_private.error_log() if sys.modules.get("ray") else ""
    note = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
    return note | ({"log": Path(log).name} if log else {})


def failed(error: BaseException) -> dict[str, Any]:
    """Returns the fields that `attempt` gains after an error: time, message, and the line that raised it."""
    note = {"failed": time.time(), "error": str(error).strip() or type(error).__name__}
    if frames := traceback.extract_tb(error.__traceback__):
        note["where"] = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}"
    return note


def first_line(error: BaseException | None) -> str:
    """Returns the first line of an error's message; the name of its class if the message is empty."""
    return (str(error or "").strip() or type(error).__name__).splitlines()[0]


def device_name() -> str:
    """Returns the name of the GPU on which this process computes, or `cpu`. A process that has not loaded
    torch has used no GPU."""
    if (torch := sys.modules.get("torch")) is None:
        return "cpu"
    from dgflow.diffusion.acceleration import device

    return torch.cuda.get_device_name() if device().type == "cuda" else "cpu"


def without_gpus() -> None:
    """Makes this process compute on the CPU from now on. Ray does not hide the GPUs from workers that
    requested none."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


LIBRARIES = ("torch", "numpy", "ray")
LOADED = {"PIL": "pillow", "torchvision": "torchvision", "diffusers": "diffusers", "scipy": "scipy"}
"""Module name -> package whose version is recorded if the process has loaded the module."""


def versions() -> dict[str, str]:
    """Returns the versions that can affect the numbers of this process: libraries, Python, CUDA, driver."""
    recorded = dict(_of_every_process())
    recorded |= {name: _version(name) for module, name in LOADED.items() if module in sys.modules}
    return recorded | (_of_the_gpu() if device_name() != "cpu" else {})


_version = cache(version)


@cache
def _of_every_process() -> dict[str, str]:
    basics = {"dgflow": __version__, "python": platform.python_version(), "machine": platform.machine()}
    return basics | {name: version(name) for name in LIBRARIES if installed(name)}


@cache
def _of_the_gpu() -> dict[str, str]:
    import torch

    values = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": driver()}
    return {name: str(value) for name, value in values.items() if value}
