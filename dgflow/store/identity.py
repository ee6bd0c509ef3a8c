"""Canonical JSON, and fingerprints computed from it.

Equal values have equal text on every machine and Python version; a value without a stable text raises an
error that names its path. The text is JSON in UTF-8 with keys sorted by code point, no spaces, tuples as
lists, and floats as Python's shortest `repr`, so that a whole number reads `2.0` as a float and `2` as an
integer. Types are matched exactly, not by inheritance: the text of a subclass, such as a `StrEnum` or a numpy
scalar, could change with its library.
"""

import hashlib
import json
import math
from typing import Any

_SHOWN = 160  # characters of a value that `differences` shows before it truncates


def canonical_json(value: Any) -> str:
    """The canonical text of a plain value: None, bool, int, float, str, list, tuple, or dict with str keys,
    nested.

    Raises ValueError for anything else; the message begins with the path of the value, such as
    `guidance[0].weight`.
    """
    _check(value, "")
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def sha256_hex(data: bytes) -> str:
    """The sha256 of bytes: 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def fingerprint(value: Any) -> str:
    """The sha256 of the value's canonical JSON: 64 lower-case hex digits. Errors as in `canonical_json`."""
    return sha256_hex(canonical_json(value).encode())


def differences(recorded: Any, current: Any) -> list[str]:
    """One line per leaf in which two plain values differ, such as `fields.steps: recorded 18, now 35`.

    Values are compared by their canonical JSON, so the float 2.0 and the integer 2 differ, as in a
    fingerprint.
    """
    return list(_differences(recorded, current, ""))


_MISSING = object()


def _differences(recorded: Any, current: Any, path: str) -> list[str]:
    if isinstance(recorded, dict) and isinstance(current, dict):
        keys = sorted(recorded.keys() | current.keys())
        pairs = [(recorded.get(key, _MISSING), current.get(key, _MISSING), _child(path, key)) for key in keys]
    elif isinstance(recorded, list | tuple) and isinstance(current, list | tuple):
        longest = max(len(recorded), len(current))
        at = [[*values, *[_MISSING] * (longest - len(values))] for values in (recorded, current)]
        pairs = [(old, new, f"{path}[{i}]") for i, (old, new) in enumerate(zip(*at, strict=True))]
    elif _shown(recorded, full=True) == _shown(current, full=True):
        return []
    else:
        return [f"{path or 'value'}: recorded {_shown(recorded)}, now {_shown(current)}"]
    return [line for old, new, where in pairs for line in _differences(old, new, where)]


def _shown(value: Any, full: bool = False) -> str:
    if value is _MISSING:
        return "absent"
    text = canonical_json(value)
    return text if full or len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def _child(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _check(value: Any, path: str) -> None:
    kind = type(value)
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise _refusal(path, f"the key {key!r} of type {type(key).__name__}", "use strings as keys")
            _check_text(key, _child(path, key))
            _check(item, _child(path, key))
    elif kind is list or kind is tuple:
        for i, item in enumerate(value):
            _check(item, f"{path}[{i}]")
    elif kind is float:
        if not math.isfinite(value):
            raise _refusal(path, f"the float {value!r}", "use None, or a finite number")
    elif kind is str:
        _check_text(value, path)
    elif value is not None and kind is not bool and kind is not int:
        raise _refusal(path, f"a {kind.__module__}.{kind.__qualname__}", _remedy(value))


def _check_text(text: str, path: str) -> None:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise _refusal(path, "a string with a lone surrogate", "use text that can be encoded in UTF-8")


def _remedy(value: Any) -> str:
    if callable(value):
        return "a function has no stable form: give a name, or the numbers that define it"
    if hasattr(value, "tolist"):
        return "call .item() or .tolist() on it"
    if isinstance(value, bytes | bytearray):
        return "give text, or the sha256 of the bytes"
    if hasattr(value, "value") and hasattr(value, "name"):
        return "give the .value of the enum"
    return "give its fields as plain values instead"


def _refusal(path: str, found: str, remedy: str) -> ValueError:
    return ValueError(
        f"{path or 'value'}: expected None, bool, int, float, str, list, tuple or dict, found {found}; "
        f"{remedy}"
    )
