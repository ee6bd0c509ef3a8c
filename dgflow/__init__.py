"""dgflow: Discriminator Guidance for pretrained diffusion models as one distributed, resumable workflow on
Ray.

This package exports everything that a recipe needs. The public names are listed in `__init__.pyi`. Each is
imported at its first use, so importing dgflow loads no other package. Building and planning a recipe load
neither torch nor ray.
"""

import ast
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def _public() -> dict[str, str | None]:
    """Map the public names to their modules; None for a name that is itself a module."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text())
    lines = [line for line in stub.body if isinstance(line, ast.ImportFrom)]
    return {alias.name: line.module for line in lines for alias in line.names}


_MODULES = _public()
__all__ = sorted(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__]
        )
    module = _MODULES[name]
    value = import_module(f"{__name__}.{name}") if module is None else getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
