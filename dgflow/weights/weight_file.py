"""The content of a weight file, and helpers shared by readers: state dicts, plain settings, names in errors.

A file may be malicious. So no function allocates more memory than the size of the file justifies, and none
trusts attributes of an object from the file.
"""

from __future__ import annotations

import contextlib
import os
import reprlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

VALUES = 1_000_000  # maximum number of settings per file, since nested lists can expand beyond the memory

# Remedies: for a file that a reader does not understand; for a list of averages that does not fit its names.
AGAIN = "fetch it again, or name its format"
ORDER = (
    "give the names in the order of this network's parameters, built with the settings that it was trained "
    "with"
)

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120
short = _SHORT.repr
"""`repr`, shortened; it escapes terminal control characters."""

File = bytes | str | os.PathLike[str]
"""A file's bytes, or its path."""


@dataclass(frozen=True)
class WeightFile:
    """The content of a weight file.

    Attributes: tensors: tensors on the CPU, by the network's names. They may be views into the file, which
        must not change. settings: constructor arguments, epoch, step and the like, as None, bool, int, float,
        str, list or dict.
    """

    tensors: dict[str, Tensor]
    settings: dict[str, Any]


def called(file: File, source: str | None) -> str:
    """The file's name in errors: `source` if given, otherwise the path or the size."""
    return source or (f"{len(file)} bytes" if isinstance(file, bytes) else os.fspath(file))


def as_path(file: str | os.PathLike[str]) -> Path:
    """The path of a file. Raises FileNotFoundError if it does not exist."""
    path = Path(file)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise FileNotFoundError(f"expected a weight file at {path}, found {found}")
    return path


def plain(value: Any, left: Iterator[int] | None = None) -> Any:
    """Convert `value` to plain data. Tuples and sets become lists, tensors without dimensions become numbers.

    Args:
        left: an iterator that yields once per allowed value, by default VALUES times.

    Raises:
        ValueError: the value has no plain form, or too many parts.
        RecursionError: the value contains itself, or is nested too deeply.
    """
    left = iter(range(VALUES)) if left is None else left
    if next(left, None) is None:
        raise ValueError(f"there are more than {VALUES} values")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: plain(item, left) for key, item in dict.items(value)}
    if isinstance(value, list | tuple):
        return [plain(item, left) for item in value]
    if isinstance(value, set | frozenset) and all(isinstance(item, str) for item in value):
        return sorted(value)
    if isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex():
        return value.item()
    raise ValueError(f"a {type(value).__name__} has no plain form")


def plain_items(items: Any) -> dict[str, Any]:
    """The items of a dict that have a plain form. Other items are skipped, so that they do not make the whole
    file unreadable."""
    settings: dict[str, Any] = {}
    left = iter(range(VALUES))
    for name, value in dict.items(items) if isinstance(items, dict) else ():
        if isinstance(name, str):
            with contextlib.suppress(ValueError, RecursionError):
                settings[name] = plain(value, left)
    return settings


def check_state_dict(value: Any, source: str, what: str = "the file") -> dict[str, Tensor]:
    """Return `value` as names and dense tensors on the CPU, detached and without other attributes.

    Raises ValueError for anything else, naming the first wrong key.
    """
    expected = f"{source}: expected {what} to be a state dict (names and tensors), found a"
    if not isinstance(value, dict):
        raise ValueError(f"{expected} {type(value).__name__}")
    tensors = {}
    for name, tensor in dict.items(value):
        if not isinstance(name, str) or type(tensor) not in (Tensor, Parameter):
            raise ValueError(f"{expected} {type(tensor).__name__} at {short(name)}: {_guess(value)}")
        tensors[name] = _numbers(tensor, name, source)
    return tensors


def _numbers(tensor: Tensor, name: str, source: str) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise ValueError(
            f"{source}: expected plain numbers at {short(name)}, found {tensor.layout} {tensor.dtype} on "
            f"{tensor.device}: save it as a dense tensor on the CPU"
        )
    return Tensor.detach(tensor)


def section(value: Any, key: str, source: str, kind: str) -> Any:
    """Return `value[key]`. Raises ValueError, which lists the existing keys, if the key is missing."""
    if not isinstance(value, dict) or key not in value:
        found = some(list(value)) if isinstance(value, dict) else f"a {type(value).__name__}"
        raise ValueError(f"{source}: expected {kind} with {key!r}, found {found}: {_guess(value)}")
    return value[key]


def replaced(tensors: Mapping[str, Tensor], averages: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """Replace tensors by their `averages`.

    Raises ValueError for a name that `tensors` lacks, or for another shape or dtype.
    """
    plain_averages = {}
    for name, average in averages.items():
        if name not in tensors:
            raise ValueError(
                f"{source}: expected the averaged {short(name)} among the network's tensors, found "
                f"{some(list(tensors))}: {ORDER}"
            )
        expected = _form(tensors[name])
        if type(average) not in (Tensor, Parameter) or _form(average) != expected:
            raise ValueError(
                f"{source}: expected the average of {name!r} as {expected}, found {_form(average)}: {ORDER}"
            )
        plain_averages[name] = _numbers(average, name, source)
    return {**tensors, **plain_averages}


def unaveraged(tensors: Mapping[str, Tensor], averaged: Collection[str]) -> dict[str, Tensor]:
    """Change the values of the averaged names in `tensors`, so that a test notices if a reader uses them
    instead of the averages."""
    return {
        name: tensor + 1 if name in averaged and tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def reason(error: Exception) -> str:
    """Summarise an error from its first argument, since a file can make the error's text arbitrarily long."""
    text = error.args[0] if error.args and isinstance(error.args[0], str) else ""
    return f"{type(error).__name__}: {text.partition(chr(10))[0][:200]}"


def some(names: Collection[Any]) -> str:
    """List the first names, and count the others."""
    shown = ", ".join(short(name) for name in list(names)[:6]) or "none"
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown


def _form(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def check_format(value: Any, formats: Collection[str], source: str) -> None:
    """Raise ValueError for a file that looks like one of `formats`.

    Each format defines which weights to use. A reader of plain names and tensors would return other weights.
    """
    format = _looks_like(value)
    if format in formats:
        raise ValueError(
            f"{source}: expected a state dict (names and tensors), found {some(list(value))}: "
            f"{_guess(value)}, or, to use a part of the file unchanged, give its key"
        )


def _guess(value: Any) -> str:
    """The remedy for a file of another format."""
    format = _looks_like(value)
    return (
        f"it looks like format {format!r}, so read it as that" if format else "name the format of this file"
    )


def _looks_like(value: Any) -> str | None:
    """The format that the keys of a file match; None if they match none or several."""
    keys = set(value) if isinstance(value, dict) else set()
    formats = set()
    if keys & {"dae_state_dict", "vae_state_dict"}:
        formats.add("lsgm")
    if "shadow_params" in keys:
        formats.add("soft_truncation")
    if {"ema", "model"} <= keys:
        ema = value["ema"]
        is_shadow = isinstance(ema, Mapping) and "shadow_params" in ema
        formats.add("soft_truncation" if is_shadow else "dit")
    return formats.pop() if len(formats) == 1 else None
