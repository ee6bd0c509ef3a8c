"""Packages that the client can do without."""

from __future__ import annotations

from importlib import import_module


def need(*packages: str) -> None:
    """Raises ValueError, with the command that installs them, for packages that are missing."""
    for package in packages:
        try:
            import_module(package)
        except ModuleNotFoundError as error:
            if error.name != package:
                raise
            raise ValueError(
                f"expected the package {package}, found none: pip install 'dgflow[python]'"
            ) from error
