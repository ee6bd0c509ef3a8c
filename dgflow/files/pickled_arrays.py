"""Read the arrays of a pickled dict of dicts, the format of EDM2's FID references, without executing the
pickle.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np

from dgflow.files.inert_pickle import Record, Refused, load_records, number
from dgflow.files.npz import Header, Openable

_MODULES = ("numpy.core", "numpy._core")
_SCALARS = tuple(f"{module}.multiarray.scalar" for module in _MODULES)
_EMPTY = tuple(f"{module}.multiarray._reconstruct" for module in _MODULES)  # the state holds shape and bytes
_WHOLE = tuple(f"{module}.numeric._frombuffer" for module in _MODULES)  # pickle protocol 5
_DICTS = ("collections.OrderedDict", "dnnlib.util.EasyDict")
ALLOWED = frozenset({*_SCALARS, *_EMPTY, *_WHOLE, *_DICTS, "numpy.ndarray", "numpy.dtype"})


class PickledArrays:
    """The arrays under `section` of the dict in `file`, by name. Opened at the first read."""

    def __init__(self, source: str, file: Openable, section: str) -> None:
        self.source, self._openable, self._section = source, file, section

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        try:
            with self._openable.open() as stream:
                size = stream.seek(0, 2)
                stream.seek(0)
                content = load_records(stream, size, ALLOWED)
            section = _dict(_dict(content)[self._section])
            return {
                str(name): array for name, value in section.items() if (array := _array(value)) is not None
            }
        except Refused as error:
            raise ValueError(
                f"expected only arrays in {self.source}, found a pickle that calls `{error}`; no code "
                "was run. Download the file from its publisher's page"
            ) from error
        except (MemoryError, FileNotFoundError):
            raise
        except Exception as error:  # a damaged pickle can fail in any of its instructions
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise ValueError(
                f"expected at {self.source} a pickle of a dict with arrays under {self._section!r}, found "
                f"another kind of file or a damaged one ({reason})"
            ) from error

    @property
    def names(self) -> list[str]:
        """Names of the arrays, in file order. Raises ValueError if the file is not such a pickle."""
        return list(self._arrays)

    def header(self, name: str) -> Header:
        """The dtype and shape of an array."""
        array = self._arrays[name]
        return Header(array.shape, array.dtype, 0, False)

    def array(self, name: str) -> np.ndarray:
        """Read a whole array."""
        return self._arrays[name]


def _dict(value: Any) -> dict[Any, Any]:
    if isinstance(value, Record) and value.name in _DICTS:
        return value.items
    if not isinstance(value, dict):
        raise ValueError(f"expected a dict, found {type(value).__name__}")
    return value


def _array(value: Any) -> np.ndarray | None:
    """The array that a record describes; None for any other value."""
    if not isinstance(value, Record):
        return None
    if value.name in _SCALARS:
        dtype, data = value.args
        return np.array(number(dtype.args, dtype.state, data))
    if value.name in _WHOLE:
        data, dtype, shape, order = value.args
    elif value.name in _EMPTY:
        _, shape, dtype, fortran, data = value.state
        order = "F" if fortran else "C"
    else:
        return None
    numbers = np.dtype(_code(dtype))
    if len(data) != math.prod(shape) * numbers.itemsize:
        raise ValueError(f"expected {shape} values of {numbers}, found {len(data):,} bytes")
    return np.frombuffer(bytes(data), numbers).reshape(shape, order=order)


def _code(dtype: Record) -> str:
    """The code of a pickled dtype, such as "<f8". Raises ValueError for a non-numeric dtype."""
    order, code = dtype.state[1], dtype.args[0]
    number(dtype.args, dtype.state, bytes(int(code[1:])))  # raises for other dtypes
    return f"{order}{code}"
