"""dgflow: Discriminator Guidance for pretrained diffusion models as one distributed, resumable workflow on
Ray.

What a recipe needs is here. The public names are those of `__init__.pyi`; each is imported at its first use,
so that importing dgflow loads nothing else. Building a recipe and planning one load neither torch nor ray.
"""

import ast
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def _public() -> dict[str, str | None]:
    """The modules of the public names; None for a name that is a module itself."""
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
