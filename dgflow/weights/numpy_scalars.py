"""Numbers that numpy pickled, without numpy's unpickling code: its scalars are a dtype's code, a byte order
and bytes."""

from __future__ import annotations

import re
import reprlib
from typing import Any

import numpy as np


def number(dtype_args: tuple[Any, ...], dtype_state: Any, data: Any) -> bool | int | float:
    """The Python number of a pickled numpy scalar.

    Args:
        dtype_args: what `numpy.dtype` was called with, such as `("f8", False, True)`.
        dtype_state: what it was then given as state, such as `(3, "<", None, ...)`; None for none.
        data: the scalar's bytes.

    Raises:
        ValueError: anything but a real number, of the right length.
    """
    code = dtype_args[0] if dtype_args else None
    order = dtype_state[1] if isinstance(dtype_state, tuple) and len(dtype_state) > 1 else "|"
    if (
        not isinstance(code, str)
        or not re.fullmatch(r"[fiub][1248]", code)
        or order not in ("<", ">", "|", "=")
    ):
        raise ValueError(f"expected a numpy number (f4, i8, ...), found {reprlib.repr(code)}")
    dtype = np.dtype(code).newbyteorder(order)
    if not isinstance(data, bytes) or len(data) != dtype.itemsize:
        raise ValueError(f"expected {dtype.itemsize} bytes of a numpy {code}")
    return np.frombuffer(data, dtype)[0].item()
