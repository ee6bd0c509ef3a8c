"""What a receipt says about where it was made."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version


@cache
def versions() -> dict[str, str]:
    """Versions that can change the numbers."""
    from dgflow import __version__  # not the package's metadata: a job's working directory is not installed

    own = {"dgflow": __version__, "python": platform.python_version(), "machine": platform.machine()}
    return own | {name: version(name) for name in ("torch", "numpy", "ray")}
