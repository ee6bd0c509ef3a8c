"""Parse pickles without executing them.

Nothing is executed or imported: a pickle may name only the globals that the caller allows, and each of them
is replaced by a record. Every declared length and memo index is checked before the unpickler uses it, so the
memory use is limited by the size of the file.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import reprlib
from collections.abc import Callable, Collection
from typing import Any, BinaryIO

import numpy as np

_MEMO = {"PUT", "BINPUT", "LONG_BINPUT"}


class Record:
    """A description of a pickled object, which is not constructed: the arguments of its class or function,
    its items and its state.
    """

    name: str  # name of the class or function
    args: tuple[Any, ...]
    items: dict[Any, Any]
    state: Any

    def __new__(cls, *args: Any) -> Record:  # not __init__, which pickles can bypass
        record = super().__new__(cls)
        record.args, record.items, record.state = args, {}, None
        return record

    def __init__(self, *args: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Refused(pickle.UnpicklingError):
    """The pickle names a global that is not allowed; the message is that name."""


def load_records(
    stream: BinaryIO,
    size: int,
    allowed: Collection[str],
    persistent: Callable[[Any], Any] | None = None,
    *,
    encoding: str = "ASCII",
) -> Any:
    """Parse the pickle at the stream's position, and leave the stream at the end of the pickle.

    Args:
        size: bytes of the whole stream.
        allowed: names of globals that become records, such as "collections.OrderedDict".
        persistent: returns the object of a persistent id; without it, persistent ids are refused.
        encoding: encoding of Python 2 strings; "bytes" keeps them as bytes.

    Raises:
        Refused: the pickle names a global that is not allowed.
        Exception: any kind, for bytes that are not a pickle or that declare more than the stream holds.
    """
    start = stream.tell()
    _check_claims(_Bounded(stream, size))
    end = stream.tell()
    stream.seek(start)
    root = _Unpickler(stream, allowed, persistent, encoding).load()
    stream.seek(end)
    return root


class _Unpickler(pickle.Unpickler):
    def __init__(
        self,
        stream: BinaryIO,
        allowed: Collection[str],
        persistent: Callable[[Any], Any] | None,
        encoding: str,
    ) -> None:
        super().__init__(stream, encoding=encoding)
        self._allowed, self._persistent = allowed, persistent
        # New classes for each file, so that a pickle cannot alter a class that is used after this call.
        self._classes: dict[str, type[Record]] = {}

    def find_class(self, module_name: str, global_name: str) -> type[Record]:
        name = f"{module_name}.{global_name}"
        if name not in self._allowed:
            raise Refused(name)
        if name not in self._classes:
            self._classes[name] = type("Record", (Record,), {"name": name})
        return self._classes[name]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise pickle.UnpicklingError("a persistent id, which this format does not use")
        return self._persistent(pid)


class _Bounded:
    """A stream that refuses to allocate more bytes than it has left."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size = stream, size
        self.readline, self.tell = stream.readline, stream.tell

    def left(self) -> int:
        return self._size - self._stream.tell()

    def read(self, count: int) -> bytes:
        if count > self.left():
            raise EOFError(f"{count} bytes were announced, {self.left()} follow")
        return self._stream.read(count)


def _check_claims(stream: _Bounded) -> None:
    # The unpickler's memo is an array as long as the highest index, so 9 bytes could allocate gigabytes.
    # Picklers count up from 0 or 1.
    for number, (instruction, argument, _) in enumerate(pickletools.genops(stream)):  # pyright: ignore[reportArgumentType]
        if instruction.name in _MEMO and argument is not None and int(argument) > number:
            raise pickle.UnpicklingError(f"place {argument} in the memo after {number} instructions")
        if instruction.name == "FRAME" and argument is not None and argument > stream.left():
            raise EOFError(f"a frame of {argument} bytes was announced, {stream.left()} follow")


def number(dtype_args: tuple[Any, ...], dtype_state: Any, data: Any) -> bool | int | float:
    """Convert a pickled numpy scalar to a Python number.

    Args:
        dtype_args: the arguments of `numpy.dtype`, such as `("f8", False, True)`.
        dtype_state: the state of the dtype, such as `(3, "<", None, ...)`; None for none.
        data: the scalar's bytes.

    Raises:
        ValueError: the scalar is not a real number, or has the wrong length.
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
