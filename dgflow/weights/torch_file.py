"""Files of `torch.save`, through torch's restricted unpickler, and the flat state dicts among them.

Promises that nothing in a file is executed: beside what torch itself allows (tensors and containers), three globals are understood, each as
an inert stand-in that only keeps what it is given: `argparse.Namespace`, and numpy's scalar and dtype. Any other is refused by name.
"""

from __future__ import annotations

import io
import pickle
import re
import threading
import zipfile
from typing import Any

import torch

from dgflow.weights.numpy_scalars import number
from dgflow.weights.weight_file import File, WeightFile, as_path, called, check_state_dict

_ALLOWING = threading.Lock()  # torch keeps the list of allowed globals for the whole process


class Namespace:
    """In the place of `argparse.Namespace`: its attributes are in `__dict__`."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _Dtype:
    def __init__(self, *args: Any) -> None:
        self.args, self.state = args, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _scalar(dtype: Any, data: Any) -> bool | int | float:
    if not isinstance(dtype, _Dtype):
        raise ValueError("expected a numpy scalar with its dtype")
    return number(dtype.args, dtype.state, data)


_STAND_INS = [
    (Namespace, "argparse.Namespace"),
    (_Dtype, "numpy.dtype"),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
]


def load_torch(file: File, source: str) -> Any:
    """The object in a file of `torch.save`, tensors on the CPU; those of a path are mapped and not read where the format allows it.

    Raises:
        ValueError: a global that is not understood, a file of another format, damaged or cut short.
    """
    opened = io.BytesIO(file) if isinstance(file, bytes) else as_path(file)
    mapped = None if isinstance(opened, io.BytesIO) else zipfile.is_zipfile(opened)  # torch cannot map what it wrote before version 1.6
    try:
        with _ALLOWING, torch.serialization.safe_globals(_STAND_INS):  # pyright: ignore[reportArgumentType]
            return torch.load(opened, map_location="cpu", weights_only=True, mmap=mapped)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(source, str(error))) from error
    except Exception as error:  # a damaged stream can fail anywhere in torch's reader
        raise ValueError(
            f"{source}: expected a whole file of torch.save, found another or a damaged one ({_first_line(error)}): fetch it again"
        ) from error


def read_state_dict(file: File, *, source: str | None = None) -> WeightFile:
    """A flat `.pt`, `.pth` or `.ckpt`, names and tensors and nothing around them: ADM, DG's `discriminator_N.pt`, released DiT files.

    Raises:
        ValueError: as `load_torch`, or the file holds something else, whose first key is named.
    """
    name = called(file, source)
    return WeightFile(check_state_dict(load_torch(file, name), name), {})


def refusal(source: str, wanted: str) -> str:
    """The message for a file that asks for a global which weights do not need."""
    return (
        f"{source}: refused, since reading it would need `{wanted}`, which plain weights do not; nothing was run. "
        "Get the file from its publisher's page, or convert it to safetensors where it was made"
    )


def _refusal(source: str, message: str) -> str:
    wanted = re.search(r"GLOBAL (\S+)", message)
    if wanted:
        return refusal(source, wanted[1])
    lines = [line.strip() for line in message.splitlines() if "WeightsUnpickler error" in line]
    found = (lines or message.splitlines() or ["no reason given"])[0]
    return f"{source}: expected a file of torch.save with weights and plain settings, found a damaged one, or more ({found})"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
