"""Files of `torch.save`, through torch's restricted unpickler, and the flat state dicts among them.

Nothing in a file is executed: before torch reads it, it is taken apart (`inert_pickle`) and refused, by name,
for any global but those of tensors of numbers, plain containers, and three that get inert stand-ins:
`argparse.Namespace`, and numpy's scalar and dtype. Whatever else torch, or this process, allows is refused
too.
"""

from __future__ import annotations

import io
import pickle
import threading
import zipfile
from typing import Any, BinaryIO

import torch

from dgflow.files.inert_pickle import Refused, load_records, number
from dgflow.weights.weight_file import (
    AGAIN,
    File,
    WeightFile,
    as_path,
    called,
    check_state_dict,
    reason,
    short,
)

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
_SIZES = {
    "Float": 4,
    "Double": 8,
    "Half": 2,
    "BFloat16": 2,
    "Long": 8,
    "Int": 4,
    "Short": 2,
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
}
_STORAGES = {f"torch.{kind}Storage": size for kind, size in _SIZES.items()}  # bytes of one number
_DTYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
_ALLOWED = frozenset(
    {
        *(name for _, name in _STAND_INS),
        *_STORAGES,
        *(f"torch.{dtype}" for dtype in _DTYPES),
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch.Size",
        "torch.device",
        "builtins.set",
        "__builtin__.set",  # as Python 2 calls it, and pickles of protocol 2
        "_codecs.encode",
    }
)
_LEGACY_PICKLES = (
    "magic number",
    "protocol",
    "sizes of this host's integers",
    "the object",
    "the names of its storages",
)


def load_torch(file: File, source: str) -> Any:
    """The object in a file of `torch.save`, tensors in memory.

    Raises:
        ValueError: a global that is not understood, a file of another format, compressed, damaged or cut
            short.
    """
    opened = io.BytesIO(file) if isinstance(file, bytes) else as_path(file)
    try:
        with io.BytesIO(file) if isinstance(file, bytes) else as_path(file).open("rb") as stream:
            _check(stream)
        with _ALLOWING, torch.serialization.safe_globals(_STAND_INS):  # pyright: ignore[reportArgumentType]
            # Not mapped: torch maps a zip's records without looking at their sizes and at whether they are
            # compressed.
            return torch.load(opened, map_location="cpu", weights_only=True, mmap=False)
    except MemoryError:
        raise
    except Refused as error:
        raise ValueError(refusal(source, str(error))) from error
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{source}: expected a file of torch.save with weights and plain settings, found another, a "
            f"damaged one, or more ({_first_line(error)}): fetch it again"
        ) from error
    except Exception as error:  # a damaged stream can fail anywhere in torch's reader
        raise ValueError(
            f"{source}: expected a whole file of torch.save, found another or a damaged one "
            f"({reason(error)}): {AGAIN}"
        ) from error


def _check(stream: BinaryIO) -> None:
    """Refuse what torch would read, and should not: globals beyond ours, and sizes that the file does not
    have."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    zipped = stream.read(4) == b"PK\x03\x04"  # as torch decides it
    stream.seek(0)
    if zipped:
        _check_archive(stream, size)
        stream.seek(0)
        pickled = torch._C.PyTorchFileReader(stream).get_record("data.pkl")
        load_records(io.BytesIO(pickled), len(pickled), _ALLOWED, lambda pid: None)
        return
    claimed: dict[str, int] = {}

    def storage(pid: Any) -> None:
        kind, name, numel = pid[1], pid[2], pid[4]
        if not isinstance(numel, int) or numel < 0:
            raise pickle.UnpicklingError("a storage without a size")
        claimed.setdefault(name, numel * _STORAGES[kind.name])
        if sum(claimed.values()) > size:
            raise EOFError("its tensors need more bytes than it has")

    for _ in _LEGACY_PICKLES:
        load_records(stream, size, _ALLOWED, storage)


def _check_archive(stream: BinaryIO, size: int) -> None:
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise zipfile.BadZipFile("it is compressed, which torch.save never does")
        if sum(member.file_size for member in members) > size:
            raise zipfile.BadZipFile("its parts overlap")
        if damaged := archive.testzip():  # torch does not look at checksums; 0.1 s for 230 MB
            raise zipfile.BadZipFile(f"the checksum of {short(damaged)} is another")


def read_state_dict(file: File, *, source: str | None = None) -> WeightFile:
    """A flat `.pt`, `.pth` or `.ckpt`, names and tensors and nothing around them: ADM, DG's
    `discriminator_N.pt`, released DiT files.

    Raises:
        ValueError: as `load_torch`, or the file holds something else, whose first key is named.
    """
    name = called(file, source)
    return WeightFile(check_state_dict(load_torch(file, name), name), {})


def refusal(source: str, wanted: str) -> str:
    """The message for a file that asks for a global which weights do not need."""
    return (
        f"{source}: refused, since reading it would need `{wanted}`, which plain weights do not; nothing was "
        "run. Get the file from its publisher's page, or convert it to safetensors where it was made"
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return ([line for line in lines if "WeightsUnpickler error" in line] or lines or [type(error).__name__])[
        0
    ][:200]


def save_torch(value: Any) -> bytes:
    """`value` as a file of `torch.save`."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()
