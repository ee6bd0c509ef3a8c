"""What a receipt says about where it was made."""

from __future__ import annotations

import os
import platform
import socket
import time
from functools import cache
from importlib.metadata import version
from typing import Any


def attempt() -> dict[str, Any]:
    """Who is at work, for `status`."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}


@cache
def versions() -> dict[str, str]:
    """Versions that can change the numbers."""
    from dgflow import __version__  # not the package's metadata: a job's working directory is not installed

    own = {"dgflow": __version__, "python": platform.python_version(), "machine": platform.machine()}
    return own | {name: version(name) for name in ("torch", "numpy", "ray")}
