"""Read files of `torch.save` through torch's restricted unpickler, and the flat state dicts in them.

No code from a file is executed. Before torch reads a file, the file is parsed inertly (`inert_pickle`). Two
kinds of globals are accepted:

- those of numeric tensors and plain containers;
- `argparse.Namespace` and numpy's scalar and dtype, which are replaced by inert stand-ins.

A file that names another global is refused, even if torch or the process allows that global.
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

_ALLOWING = threading.Lock()  # torch's list of allowed globals is per process


class Namespace:
    """Stand-in for `argparse.Namespace`, with the attributes in `__dict__`."""

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
        "__builtin__.set",  # the name in Python 2 and in pickles of protocol 2
        "_codecs.encode",
    }
)
# Pickles of the legacy format: magic number, protocol, sizes of integers, the object, the names of its
# storages.
_LEGACY_PICKLES = 5


def load_torch(file: File, source: str) -> Any:
    """Load the object in a file of `torch.save`, with tensors in memory.

    Raises ValueError for a global that is not allowed, and for a file that is damaged, truncated, compressed
    or in another format.
    """
    opened = io.BytesIO(file) if isinstance(file, bytes) else weight_file.as_path(file)
    try:
        with io.BytesIO(file) if isinstance(file, bytes) else weight_file.as_path(file).open("rb") as stream:
            _check(stream)
        with _ALLOWING, torch.serialization.safe_globals(_STAND_INS):  # pyright: ignore[reportArgumentType]
            # Not memory-mapped: torch maps a zip's records without checking their sizes and compression.
            return torch.load(opened, map_location="cpu", weights_only=True, mmap=False)
    except MemoryError:
        raise
    except Refused as error:
        raise ValueError(refusal(source, str(error))) from error
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{source}: expected a file of torch.save with only weights and plain settings, found another "
            f"file, a damaged one, or other contents ({_line(error)}): fetch it again"
        ) from error
    except Exception as error:  # a damaged stream can fail anywhere in torch's reader
        raise ValueError(
            f"{source}: expected a whole file of torch.save, found another or a damaged one "
            f"({weight_file.reason(error)}): {AGAIN}"
        ) from error


def _check(stream: BinaryIO) -> None:
    """Raise for contents that torch would read but must not: globals that are not allowed, and tensors larger
    than the file."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    is_zip = stream.read(4) == b"PK\x03\x04"  # torch's own criterion
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
            raise zipfile.BadZipFile(f"the checksum of {weight_file.short(damaged)} differs")


def read_state_dict(file: File, *, source: str | None = None) -> WeightFile:
    """Read a flat `.pt`, `.pth` or `.ckpt` of names and tensors, such as the files of ADM, of DG
    (`discriminator_N.pt`) or of DiT.

    Raises ValueError as `load_torch` does, and for other contents, naming the first wrong key.
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
    """Read the state dict that fits `network`, by `checkpoints.fitting`, from a file of `torch.save`.

    Args:
        formats: other file formats for this network, which are refused unless `key` names a part.

    Returns:
        The state dict. Its settings are the plain values beside it, such as a trainer's `args` or
        `hyper_parameters`.

    Raises:
        ValueError: as in `load_torch` and `fitting`, or the file has one of the `formats`.
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
    """The possible settings: all items except tensors and dicts that contain tensors."""
    items = dict.items(found) if isinstance(found, dict) else ()
    return [(name, value) for name, value in items if not _holds_tensors(value)]


def _holds_tensors(value: Any) -> bool:
    values = dict.values(value) if isinstance(value, dict) else [value]
    return any(isinstance(item, torch.Tensor) and item.ndim for item in values)


@contextlib.contextmanager
def inert(file: File, source: str, kind: str) -> Iterator[tuple[BinaryIO, int]]:
    """A context with the open file and its size. Errors within it become a ValueError that names the file."""
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
    """The message for a file with a global that weights do not need."""
    return (
        f"{source}: refused, since reading it would need `{name}`, which plain weights do not; no code was "
        "run. Get the file from its publisher's page, or convert it to safetensors where it was made"
    )


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if "WeightsUnpickler error" in line] or lines or [type(error).__name__]
    return lines[0][:200]


def save_torch(value: Any) -> bytes:
    """Encode `value` as a file of `torch.save`."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()
