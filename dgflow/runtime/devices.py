"""Detection of a worker's GPU that is missing or no longer computes."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_DRIVER = Path("/proc/driver/nvidia/version")


class DeviceBroken(RuntimeError):
    """Raised if a GPU failed such that this process can no longer use it: every later call would fail."""


class NoDevice(RuntimeError):
    """Raised if a worker cannot use the GPU that it was given; `host` is the id of its host."""

    def __init__(self, host: str, message: str) -> None:
        super().__init__(host, message)
        self.host, self.message = host, message

    def __str__(self) -> str:
        return self.message


def check_gpu(host: str) -> None:
    """Raises NoDevice if torch sees no GPU, because the work would silently run on the CPU.

    DGFLOW_EMULATED_GPUS=1 disables the check, for tests of clusters whose GPUs are only declared.
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
        f"{reason}; NVIDIA driver: {driver() or 'not loaded'}. Install a driver for that CUDA, start "
        "containers with the NVIDIA runtime (--gpus all), or compute on CPUs with --num-gpus 0",
    )


def driver() -> str:
    """Returns the version of NVIDIA's driver; empty if none is loaded."""
    try:
        match = re.search(r"Kernel Module\D*([\d.]+)", _DRIVER.read_text())
    except OSError:
        return ""
    return match[1] if match else ""


def broken(error: Exception) -> DeviceBroken | None:
    """Returns a DeviceBroken for an error that reports an unusable GPU; None for any other error."""
    if "torch" not in sys.modules:
        return None
    from dgflow.diffusion.device_errors import is_broken

    return DeviceBroken(f"{type(error).__name__}: {error}") if is_broken(error) else None
