"""`WeightFile`, which every reader returns, and helpers of the readers: names in errors, state dicts,
settings.

A file may be made to harm: nothing here grows beyond what the file has, and no object is asked for what its
own attributes could answer.
"""

from __future__ import annotations

import contextlib
import os
import reprlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

VALUES = 1_000_000
"""Limit of the settings in one file: nested lists can make a small file describe more than a host can
hold."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120
short = _SHORT.repr
"""As `repr`, but never long, and with nothing that a terminal would act on."""

File = bytes | str | os.PathLike[str]
"""A file's bytes, or its path."""


@dataclass(frozen=True)
class WeightFile:
    """The content of a weight file.

    Attributes:
        tensors: on the CPU, by the name that the network has for them. They may be views into the file, which
            has to stay as it is.
        settings: what else the file says, as plain data: constructor arguments, epoch, step.
    """

    tensors: dict[str, Tensor]
    settings: dict[str, Any]


def called(file: File, source: str | None) -> str:
    """The name of a file in an error: `source` where the caller gives one, else its path."""
    return source or (f"{len(file)} bytes" if isinstance(file, bytes) else os.fspath(file))


def as_path(file: str | os.PathLike[str]) -> Path:
    """The path as an object. Raises FileNotFoundError where there is no file, before a library does with less
    to say."""
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a weight file at {path}, found {'a folder' if path.is_dir() else 'nothing'}"
        )
    return path


def plain(value: Any, left: Iterator[int] | None = None) -> Any:
    """`value` as None, bool, int, float, str, list or dict, nested; tuples, sets and tensors of one number
    become these.

    Args:
        left: an iterator that is as long as there may be values; by default VALUES.

    Raises:
        ValueError: it has no such form, or has more values.
        RecursionError: it contains itself, or is very deep.
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


def plain_items(found: Any) -> dict[str, Any]:
    """Those items of a dict that are plain data.

    What is not, is no setting, and no reason to lose the tensors beside it.
    """
    kept: dict[str, Any] = {}
    left = iter(range(VALUES))
    for name, value in dict.items(found) if isinstance(found, dict) else ():
        if isinstance(name, str):
            with contextlib.suppress(ValueError, RecursionError):
                kept[name] = plain(value, left)
    return kept


def check_state_dict(found: Any, source: str, what: str = "the file") -> dict[str, Tensor]:
    """`found` as names and dense tensors on the CPU, detached and without anything else that a file may have
    tied to them.

    Raises:
        ValueError: it is something else; the message names the first key that is wrong.
    """
    if not isinstance(found, dict):
        raise ValueError(
            f"{source}: expected {what} to be a state dict (names and tensors), found a "
            f"{type(found).__name__}"
        )
    tensors = {}
    for name, tensor in dict.items(found):
        if not isinstance(name, str) or type(tensor) not in (Tensor, Parameter):
            raise ValueError(
                f"{source}: expected {what} to be a state dict (names and tensors), found a "
                f"{type(tensor).__name__} at {short(name)}: {_guess(found)}"
            )
        tensors[name] = _numbers(tensor, name, source)
    return tensors


def _numbers(tensor: Tensor, name: str, source: str) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise ValueError(
            f"{source}: expected plain numbers at {short(name)}, found {tensor.layout} {tensor.dtype} on "
            f"{tensor.device}: save it dense"
        )
    return Tensor.detach(tensor)


def section(found: Any, key: str, source: str, kind: str) -> Any:
    """`found[key]`. Raises ValueError, naming the keys that are there, where there is none."""
    if not isinstance(found, dict) or key not in found:
        there = some(list(found)) if isinstance(found, dict) else f"a {type(found).__name__}"
        raise ValueError(f"{source}: expected {kind} with {key!r}, found {there}: {_guess(found)}")
    return found[key]


def replaced(tensors: Mapping[str, Tensor], averages: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """`tensors` with those of `averages` in their place.

    Raises:
        ValueError: a name that `tensors` lack, or a shape or dtype that differs from theirs.
    """
    plain_averages = {}
    for name, average in averages.items():
        if name not in tensors:
            raise ValueError(
                f"{source}: expected the averaged {short(name)} among the network's tensors, found "
                f"{some(list(tensors))}: {ORDER}"
            )
        expected = tensors[name]
        if type(average) not in (Tensor, Parameter) or (average.shape, average.dtype) != (
            expected.shape,
            expected.dtype,
        ):
            raise ValueError(
                f"{source}: expected the average of {name!r} as {_form(expected)}, found {_form(average)}: "
                f"{ORDER}"
            )
        plain_averages[name] = _numbers(average, name, source)
    return {**tensors, **plain_averages}


def unaveraged(tensors: Mapping[str, Tensor], averaged: Collection[str]) -> dict[str, Tensor]:
    """What a smoke run's file has beside its averages: other weights, so that a reader of the wrong ones would
    be found."""
    names = set(averaged)
    return {
        name: tensor + 1 if name in names and tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def reason(error: Exception) -> str:
    """An error in a few words. Its own text is not asked for, as a file can make that endless."""
    text = error.args[0] if error.args and isinstance(error.args[0], str) else ""
    return f"{type(error).__name__}: {text.partition(chr(10))[0][:200]}"


AGAIN = "fetch it again, or name the format that it has"
"""The remedy for a file that a reader cannot make out: a damaged one, or more often one of another format."""
ORDER = (
    "give the names in the order of this network's parameters, built with the settings that it was trained "
    "with"
)
"""The remedy where a list of averages does not fit its names."""


def some(names: Collection[Any]) -> str:
    """A few of the names, and how many there are."""
    shown: Sequence[str] = [short(name) for name in list(names)[:6]]
    return f"{', '.join(shown) or 'none'}{f' and {len(names) - 6} more' if len(names) > 6 else ''}"


def _form(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


_KINDS = {"dae_state_dict": "lsgm", "vae_state_dict": "lsgm", "shadow_params": "soft_truncation"}


def _guess(found: Any) -> str:
    """The remedy for a file of another kind."""
    keys = set(found) if isinstance(found, dict) else set()
    kinds = {_KINDS[key] for key in keys & _KINDS.keys()}
    if "ema" in keys and "model" in keys:
        kinds.add(
            "soft_truncation"
            if isinstance(found["ema"], Mapping) and "shadow_params" in found["ema"]
            else "dit"
        )
    return (
        f"it looks like format {kinds.pop()!r}, read it as that"
        if len(kinds) == 1
        else "name the format that this file has"
    )
