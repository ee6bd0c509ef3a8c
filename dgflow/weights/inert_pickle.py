"""Pickles taken apart without running them: what they call becomes records, and they take no more memory than
their bytes pay for.

Promises that nothing is executed or imported: a pickle may name only the globals that the caller allows, and
    gets for each a class of
records, which keep what they are given. Every claim of a length or of a place in the memo is checked before
    the pickle machine sees it.
What the records mean is left to the callers.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable, Collection
from typing import Any, BinaryIO

_MEMO = {"PUT", "BINPUT", "LONG_BINPUT"}


class Record:
    """An object that a pickle describes, not made: what its class or function was called with, its items, and
    its state."""

    name: str  # the global's
    args: tuple[Any, ...]
    items: dict[Any, Any]
    state: Any

    def __new__(cls, *args: Any) -> Record:  # not in __init__, which pickles can go around
        made = super().__new__(cls)
        made.args, made.items, made.state = args, {}, None
        return made

    def __init__(self, *args: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Refused(pickle.UnpicklingError):
    """The pickle names a global that is not allowed; the text is that name."""


def load_records(
    stream: BinaryIO, size: int, allowed: Collection[str], persistent: Callable[[Any], Any] | None = None
) -> Any:
    """The object of the pickle that begins where `stream` stands; the stream is left at the pickle's end.

    Args:
        size: bytes of the whole stream.
        allowed: globals, such as "collections.OrderedDict", that become records.
        persistent: what a persistent id stands for; without it, such ids are refused.

    Raises:
        Refused: another global.
        Exception: any, for bytes that are no pickle, or claim what the stream does not have.
    """
    start = stream.tell()
    _check_claims(_Bounded(stream, size))
    end = stream.tell()
    stream.seek(start)
    found = _Unpickler(stream, allowed, persistent).load()
    stream.seek(end)
    return found


class _Unpickler(pickle.Unpickler):
    def __init__(
        self, stream: BinaryIO, allowed: Collection[str], persistent: Callable[[Any], Any] | None
    ) -> None:
        super().__init__(stream)
        self._allowed, self._persistent = allowed, persistent
        self._classes: dict[
            str, type[Record]
        ] = {}  # of this file alone, so that it can alter nothing that outlives it

    def find_class(self, module_name: str, global_name: str) -> type[Record]:
        name = f"{module_name}.{global_name}"
        if name not in self._allowed:
            raise Refused(name)
        if name not in self._classes:
            self._classes[name] = type("Record", (Record,), {"name": name})
        return self._classes[name]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise pickle.UnpicklingError("a persistent id, which this format does not have")
        return self._persistent(pid)


class _Bounded:
    """A stream that refuses to make room for more bytes than it has."""

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
    # The pickle machine's memo is an array as long as the highest index: 9 bytes could ask for gigabytes.
    # Picklers count up from 0 or 1.
    for number, (instruction, argument, _) in enumerate(pickletools.genops(stream)):  # pyright: ignore[reportArgumentType]
        if instruction.name in _MEMO and argument is not None and int(argument) > number:
            raise pickle.UnpicklingError(f"place {argument} in the memo after {number} instructions")
        if instruction.name == "FRAME" and argument is not None and argument > stream.left():
            raise EOFError(f"a frame of {argument} bytes was announced, {stream.left()} follow")
