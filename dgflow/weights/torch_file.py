"""Files of `torch.save`, through torch's restricted unpickler, and the flat state dicts among them.

Nothing in a file is executed. Before torch reads it, it is taken apart (`inert_pickle`) and refused, by name,
for any global except those of tensors of numbers, plain containers, and `argparse.Namespace`, numpy's scalar
and dtype, which get inert stand-ins. Other globals that torch or the process allow are refused too.
"""

from __future__ import annotations

import contextlib
import io
import logging
import pickle
import threading
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import torch
from torch import nn

from dgflow.files.inert_pickle import Refused, load_records, number
from dgflow.weights import weight_file
from dgflow.weights.checkpoints import fitting
from dgflow.weights.weight_file import AGAIN, File, WeightFile

_log = logging.getLogger(__name__)

_ALLOWING = threading.Lock()  # torch keeps the list of allowed globals for the whole process


class Namespace:
    """Stand-in for `argparse.Namespace`: its attributes are in `__dict__`."""

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
_KINDS = {
    8: "Double Long",
    4: "Float Int",
    2: "Half BFloat16 Short",
    1: "Char Byte Bool",
}  # by bytes per number
_STORAGES = {f"torch.{kind}Storage": size for size, kinds in _KINDS.items() for kind in kinds.split()}
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
# Of the old form: magic number, protocol, sizes of integers, the object, the names of its storages.
_LEGACY_PICKLES = 5


def load_torch(file: File, source: str) -> Any:
    """The object in a file of `torch.save`, tensors in memory.

    Raises ValueError for a global that is not understood, and a file that is damaged, cut short, compressed
    or of another format.
    """
    opened = io.BytesIO(file) if isinstance(file, bytes) else weight_file.as_path(file)
    try:
        with io.BytesIO(file) if isinstance(file, bytes) else weight_file.as_path(file).open("rb") as stream:
            _check(stream)
        with _ALLOWING, torch.serialization.safe_globals(_STAND_INS):  # pyright: ignore[reportArgumentType]
            # Not mapped: torch maps a zip's records without a look at their sizes and compression.
            return torch.load(opened, map_location="cpu", weights_only=True, mmap=False)
    except MemoryError:
        raise
    except Refused as error:
        raise ValueError(refusal(source, str(error))) from error
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{source}: expected a file of torch.save with weights and plain settings, found another, a "
            f"damaged one, or more ({_line(error)}): fetch it again"
        ) from error
    except Exception as error:  # a damaged stream can fail anywhere in torch's reader
        raise ValueError(
            f"{source}: expected a whole file of torch.save, found another or a damaged one "
            f"({weight_file.reason(error)}): {AGAIN}"
        ) from error


def _check(stream: BinaryIO) -> None:
    """Refuses what torch would read and should not: globals beyond ours, and sizes beyond the file's."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    is_zip = stream.read(4) == b"PK\x03\x04"  # as torch decides it
    stream.seek(0)
    if is_zip:
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

    for _ in range(_LEGACY_PICKLES):
        load_records(stream, size, _ALLOWED, storage)


def _check_archive(stream: BinaryIO, size: int) -> None:
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise zipfile.BadZipFile("it is compressed, which torch.save never does")
        if sum(member.file_size for member in members) > size:
            raise zipfile.BadZipFile("its parts overlap")
        if damaged := archive.testzip():  # torch ignores checksums; 0.1 s for 230 MB
            raise zipfile.BadZipFile(f"the checksum of {weight_file.short(damaged)} is another")


def read_state_dict(file: File, *, source: str | None = None) -> WeightFile:
    """A flat `.pt`, `.pth` or `.ckpt` of names and tensors: ADM, DG's `discriminator_N.pt`, released DiT.

    Raises ValueError as `load_torch`, or if the file holds something else, whose first key is named.
    """
    name = weight_file.called(file, source)
    return WeightFile(weight_file.check_state_dict(load_torch(file, name), name), {})


def read_checkpoint(
    file: File,
    network: nn.Module,
    *,
    source: str | None = None,
    key: str | None = None,
    formats: Sequence[str] = (),
) -> WeightFile:
    """The state dict in a file of `torch.save` that fits `network`, as `checkpoints.fitting` finds it.

    Args:
        formats: others that files for this network have, which are refused unless `key` says a part.

    Returns:
        Settings: the plain ones beside it, such as a trainer's `args` or `hyper_parameters`.

    Raises:
        ValueError: as `load_torch` and `fitting`, or it is a file of another format.
    """
    name = weight_file.called(file, source)
    found = load_torch(file, name)
    if key is None:
        weight_file.check_format(found, formats, name)
    tensors, note = fitting(found, network, name, key)
    if note:
        _log.warning("%s: %s", name, note)
    settings = {part: vars(value) if isinstance(value, Namespace) else value for part, value in _items(found)}
    return WeightFile(tensors, weight_file.plain_items(settings))


def _items(found: Any) -> list[tuple[Any, Any]]:
    """What may be settings: all but tensors, and dicts that have some."""
    items = dict.items(found) if isinstance(found, dict) else ()
    return [(name, value) for name, value in items if not _holds_tensors(value)]


def _holds_tensors(value: Any) -> bool:
    values = dict.values(value) if isinstance(value, dict) else [value]
    return any(isinstance(item, torch.Tensor) and item.ndim for item in values)


@contextlib.contextmanager
def inert(file: File, source: str, kind: str) -> Iterator[tuple[BinaryIO, int]]:
    """The file and its size, to be taken apart. Errors while it is open become a ValueError that names it."""
    try:
        with io.BytesIO(file) if isinstance(file, bytes) else weight_file.as_path(file).open("rb") as stream:
            size = stream.seek(0, io.SEEK_END)
            stream.seek(0)
            yield stream, size
    except Refused as error:
        raise ValueError(refusal(source, str(error))) from error
    except (MemoryError, FileNotFoundError):
        raise
    except Exception as error:  # a damaged file can fail in any of its instructions
        raise ValueError(
            f"{source}: expected a whole {kind}, found another file or a damaged one "
            f"({weight_file.reason(error)}): {AGAIN}"
        ) from error


def refusal(source: str, name: str) -> str:
    """The message for a file that asks for a global which weights do not need."""
    return (
        f"{source}: refused, since reading it would need `{name}`, which plain weights do not; nothing was "
        "run. Get the file from its publisher's page, or convert it to safetensors where it was made"
    )


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if "WeightsUnpickler error" in line] or lines or [type(error).__name__]
    return lines[0][:200]


def save_torch(value: Any) -> bytes:
    """`value` as a file of `torch.save`."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()
