"""Packages that are extras."""

from importlib import import_module
from typing import Any


def needed(package: str) -> Any:
    """The package, which is an extra of the same name. Raises ValueError where it is not installed."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ValueError(
            f"expected the package {package}, found it not installed; pip install 'dgflow[{package}]'"
        ) from error
