"""The pickles that CIFAR comes in, read without running anything.

Promises that nothing is imported or called: the three globals of numpy that such files name become records of
    what they were given, and a
file that names any other is refused, with that name.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np

_ALLOWED = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")


class _Inert:
    """What a global of numpy made, not made: what it was called with, and its state."""

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> _Inert:  # not in __init__, which pickles can go around
        made = super().__new__(cls)
        vars(made).update(args=args, state=None)
        return made

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        vars(self).update(state=state)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> type[_Inert]:
        name = f"{module_name}.{global_name}"
        if name not in _ALLOWED:
            raise pickle.UnpicklingError(
                f"it names {name}, and may name {', '.join(_ALLOWED)} alone: it is not CIFAR's, do not "
                "open it"
            )
        return type("Inert", (_Inert,), {"of": name})


def load_batch(data: bytes, where: str) -> dict[str, Any]:
    """The dictionary of a batch: uint8 arrays as numpy's, the rest as Python wrote it (strings as bytes).

    Raises:
        ValueError: not the pickle of a dictionary, one that names other globals, or arrays that are not uint8
            or not whole.
    """
    try:
        found = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        if not isinstance(found, dict):
            raise pickle.UnpicklingError(f"it holds a {type(found).__name__}, not a dictionary")
        return {
            key.decode() if isinstance(key, bytes) else str(key): _array(value)
            for key, value in found.items()
        }
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(
            f"expected a batch of CIFAR at {where}, found what cannot be used ({error}); fetch the archive "
            "again"
        ) from error


def _array(value: Any) -> Any:
    """The array that a record describes; anything else as it is."""
    if not isinstance(value, _Inert):
        return value
    _version, shape, dtype, fortran, data = value.state
    if not isinstance(dtype, _Inert) or dtype.args[0] not in (b"u1", "u1") or fortran:
        raise pickle.UnpicklingError("an array that is not of uint8 in C order")
    if not isinstance(data, bytes) or math.prod(shape) != len(data):
        raise pickle.UnpicklingError(f"an array of shape {shape} with other bytes than it needs")
    return np.frombuffer(data, np.uint8).reshape(shape)
