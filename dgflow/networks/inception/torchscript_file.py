"""Read NVIDIA's Inception network, a TorchScript archive (`.pt`) or a pickle (`.pkl`), without executing it:
torch.jit is not involved. Tensors are selected by name and checked against the storage that they view.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgflow.files.inert_pickle import Record, load_records
from dgflow.networks.edm.file import ALLOWED as _OF_EDM
from dgflow.networks.edm.file import Reader
from dgflow.networks.inception.names import from_modules
from dgflow.weights.torch_file import inert
from dgflow.weights.weight_file import VALUES, File, WeightFile, called, short

_MODULE = "__torch__."  # TorchScript's prefix of class names
_TENSOR, _PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
_DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
}
_DEEPEST = 100  # nesting depth of modules; the network has four levels


class _Names(frozenset[str]):
    """The allowed globals, and the archive's own classes."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and name.startswith(_MODULE))


_ALLOWED = _Names(
    {
        *_DTYPES,
        _TENSOR,
        _PARAMETER,
        "collections.OrderedDict",
        # Wrappers of attributes that are lists and dicts.
        "torch.jit._pickle.restore_type_tag",
        "torch.jit._pickle.build_intlist",
        "torch.jit._pickle.build_doublelist",
        "torch.jit._pickle.build_boollist",
        "torch.jit._pickle.build_tensorlist",
    }
)
_LAYERS = {
    f"torch.nn.modules.{kind}"
    for kind in ("container.Sequential", "linear.Linear", "pooling.AvgPool2d", "pooling.MaxPool2d")
}


def read_inception_torchscript(file: File, *, source: str | None = None) -> WeightFile:
    """Read the tensors of the archive's modules, by the names of PyTorch's ports.

    Raises:
        ValueError: the file names a global that weights do not need, is of another kind or network, damaged
            or truncated.
    """
    name = called(file, source)
    with inert(file, name, "archive of TorchScript") as (stream, size), zipfile.ZipFile(stream) as archive:
        tensors = _Archive(archive, size).tensors()
    return from_modules(tensors, name)


def read_inception_pickle(file: File, *, source: str | None = None) -> WeightFile:
    """Read the tensors of the pickled network, as `read_inception_torchscript` does. The pickle has the form
    of EDM's networks, without the surrounding dict.

    Raises:
        ValueError: as `read_inception_torchscript`.
    """
    name = called(file, source)
    with inert(file, name, "pickle of NVIDIA's Inception network") as (stream, size):
        network = load_records(stream, size, _OF_EDM | _LAYERS)
        tensors = dict(Reader(name).tensors(network, "", 0))
    return from_modules(tensors, name)


@dataclass(frozen=True)
class _Storage:
    """A storage named by a persistent id: numbers in a member of the archive."""

    key: str
    dtype: torch.dtype
    numbers: int


class _Archive:
    """The tensors of one `ScriptModule.save` archive, which has one folder with `data.pkl`, `data/0`,
    `data/1` and code.
    """

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        members = archive.infolist()
        if sum(member.compress_size for member in members) > size:
            raise zipfile.BadZipFile("its parts overlap")
        pickles = [member.filename for member in members if member.filename.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise zipfile.BadZipFile(f"{len(pickles)} members that are data.pkl in the one folder")
        self._archive, self._folder = archive, pickles[0].removesuffix("data.pkl")
        self._bytes: dict[str, bytearray] = {}
        self._values = 0

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of all modules, by dotted names."""
        pickled = self._member("data.pkl")
        network = load_records(io.BytesIO(pickled), len(pickled), _ALLOWED, _storage)
        if not isinstance(network, Record) or not network.name.startswith(_MODULE):
            raise ValueError("its data.pkl is no module")
        return dict(self._walk(network, "", 0))

    def _member(self, name: str) -> bytes:
        member = self._archive.getinfo(self._folder + name)
        if (
            member.compress_type != zipfile.ZIP_STORED
        ):  # the code in these archives is compressed; the code is not read
            raise zipfile.BadZipFile(f"its {short(name)} is compressed, which torch never does")
        return self._archive.read(member)  # verifies the checksum

    def _walk(self, module: Record, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
        state = {} if module.state is None else module.state
        if not isinstance(state, dict) or depth > _DEEPEST:
            raise ValueError(f"a module at {short(prefix)} without attributes, or {_DEEPEST} deep")
        for name, value in state.items():
            # Repeated nesting of modules can make a small file describe more than fits into memory
            self._values += 1
            if not isinstance(name, str) or self._values > VALUES:
                raise ValueError(
                    f"an attribute at {short(prefix)} without a name, or more than {VALUES} of them"
                )
            if isinstance(value, Record) and value.name in (_TENSOR, _PARAMETER):
                yield f"{prefix}{name}", self._tensor(value)
            elif isinstance(value, Record) and value.name.startswith(_MODULE):
                yield from self._walk(value, f"{prefix}{name}.", depth + 1)

    def _tensor(self, record: Record) -> Tensor:
        if record.name == _PARAMETER:
            record = record.args[0]
        if (
            not isinstance(record, Record)
            or record.name != _TENSOR
            or not isinstance(record.args[0], _Storage)
        ):
            raise ValueError("a tensor without a storage")
        storage, offset, shape, stride = record.args[:4]
        if storage.key not in self._bytes:
            self._bytes[storage.key] = bytearray(self._member(f"data/{storage.key}"))
        data = self._bytes[storage.key]
        if storage.numbers * storage.dtype.itemsize > len(data):
            raise EOFError(
                f"a storage of {storage.numbers} numbers was announced, {len(data)} bytes are there"
            )
        flat = (
            torch.frombuffer(data, dtype=storage.dtype, count=storage.numbers)
            if storage.numbers
            else torch.empty(0)
        )
        return flat.as_strided(shape, stride, offset)  # raises for a view beyond the storage


def _storage(pid: Any) -> _Storage:
    _, kind, key, _, numbers = pid
    if kind.name not in _DTYPES or not isinstance(key, str) or not isinstance(numbers, int) or numbers < 0:
        raise ValueError(f"a storage {short(key)} of {short(numbers)} numbers")
    return _Storage(key, _DTYPES[kind.name], numbers)
