"""Failures of a worker's GPU: the GPU is missing, or it no longer computes."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_DRIVER = Path("/proc/driver/nvidia/version")


class DeviceBroken(RuntimeError):
    """Raised if a GPU failed in a way that makes it unusable by this process: every later call would fail
    immediately."""


class NoDevice(RuntimeError):
    """Raised if a worker that was given a GPU cannot use it, on the host with this id."""

    def __init__(self, host: str, message: str) -> None:
        super().__init__(host, message)
        self.host, self.message = host, message

    def __str__(self) -> str:
        return self.message


def check_gpu(host: str) -> None:
    """Raises NoDevice if torch sees no GPU; the work that needs one would run on the CPU.

    With DGFLOW_EMULATED_GPUS=1 the CPU computes, for tests of clusters whose GPUs are only declared.
    """
    import torch

    if torch.cuda.is_available() or os.environ.get("DGFLOW_EMULATED_GPUS") == "1":
        return
    try:
        torch.cuda.init()
        reason = "torch.cuda.is_available() is False"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    raise NoDevice(
        host,
        f"expected a GPU for this worker, found none that torch {torch.__version__} ({built}) can use: "
        f"{reason}; "
        f"NVIDIA driver: {driver() or 'not loaded'}. Install a driver for that CUDA, start containers with "
        "the "
        "NVIDIA runtime (--gpus all), or compute on CPUs with --num-gpus 0",
    )


def driver() -> str:
    """Returns the version of NVIDIA's driver, "" without one."""
    try:
        match = re.search(r"Kernel Module\D*([\d.]+)", _DRIVER.read_text())
    except OSError:
        return ""
    return match[1] if match else ""


def broken(error: Exception) -> DeviceBroken | None:
    """Returns the error to raise instead of one that reports an unusable GPU; None for any other error."""
    if "torch" not in sys.modules:
        return None
    from dgflow.diffusion.device_errors import is_broken

    return DeviceBroken(f"{type(error).__name__}: {error}") if is_broken(error) else None
