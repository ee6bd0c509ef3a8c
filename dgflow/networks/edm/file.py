"""Read EDM's and EDM2's `.pkl` files without executing them: pickles of a whole network, including its source
code.

A file is parsed into records (`inert_pickle`); an error is raised for globals other than the known ones of
such files. Tensors are built from the records and checked against the storage that they view.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dgflow.files.inert_pickle import Record, load_records, number
from dgflow.weights.torch_file import inert, load_torch
from dgflow.weights.weight_file import VALUES, File, WeightFile, called, plain, reason, short, some

_PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_ARRAYS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "numpy.ndarray")
"""Globals of EDM2's latent encoder, which is stored beside the network and ignored."""
_DICTS = ("collections.OrderedDict", "dnnlib.util.EasyDict")
ALLOWED = frozenset(
    {
        _PERSISTENT,
        *_DICTS,
        *_SCALARS,
        *_ARRAYS,
        "builtins.set",
        "numpy.dtype",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor_v2",
        "torch.nn.modules.container.ModuleDict",
        "torch.storage._load_from_bytes",
    }
)
_DEEPEST = 100  # nesting depth of modules; EDM's networks have five levels


def read_edm_pickle(file: File, *, source: str | None = None) -> WeightFile:
    """Read the tensors of the pickle's `ema` network, by their state-dict names.

    Returns:
        Settings: `class_name` (such as "EDMPrecond"), `init_args`, `init_kwargs` (the constructor's
            arguments) and `attributes` (plain ones, such as sigma_min); under `model`, if there is one, the
            same for the network inside.

    Raises:
        ValueError: the file names a global that is not allowed, is of another kind, damaged or truncated.
    """
    name = called(file, source)
    with inert(file, name, "pickle of EDM's") as (stream, size):
        found = load_records(stream, size, ALLOWED)
    reader = Reader(name)
    if isinstance(found, Record) and found.name in _DICTS:
        found = found.items
    if not isinstance(found, dict) or "ema" not in found:
        keys = some(list(found)) if isinstance(found, dict) else f"a {_kind(found)}"
        raise ValueError(
            f"{name}: expected EDM's pickle of a dict with 'ema', found {keys}: name the format that this "
            "file has"
        )
    network = found["ema"]
    try:
        return WeightFile(dict(reader.tensors(network, "", 0)), reader.settings(network))
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # malformed records can raise anything
        raise ValueError(
            f"{name}: expected a network of EDM's under 'ema', found records of another form "
            f"({reason(error)}): fetch it again"
        ) from error


class Reader:
    """Build tensors and settings from the records of one file."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._dtypes: dict[int, torch.dtype] = {}
        self._values = 0

    def tensors(self, module: Any, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
        """The tensors in the order of `state_dict()`: parameters, persistent buffers, then the modules
        inside.
        """
        if depth > _DEEPEST:
            raise self._error(prefix, f"modules at most {_DEEPEST} deep", "more")
        state = self._state(module, prefix)
        transient = self._value(state.get("_non_persistent_buffers_set") or set(), prefix)
        for name, value in self._members(state, "_parameters", prefix):
            yield name, self._tensor(value, name)
        for name, value in self._members(state, "_buffers", prefix):
            if name.removeprefix(prefix) not in transient:
                yield name, self._tensor(value, name)
        for name, child in self._members(state, "_modules", prefix):
            yield from self.tensors(child, f"{name}.", depth + 1)

    def _members(self, state: dict[Any, Any], kind: str, prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in self._dict(state.get(kind, {}), prefix).items():
            self._count(prefix)
            if not isinstance(name, str):
                raise self._error(prefix, f"names in {kind}", short(name))
            if value is not None:
                yield f"{prefix}{name}", value

    def settings(self, module: Any) -> dict[str, Any]:
        """The settings of a persistent module, and of its child `model` if it has one."""
        found = self._described(module)
        child = self._dict(self._state(module, "").get("_modules", {}), "").get("model")
        return found if child is None else {**found, "model": self._described(child)}

    def _described(self, module: Any) -> dict[str, Any]:
        state = self._state(module, "")
        meta = self._dict(module.args[0], "") if module.name == _PERSISTENT else {}
        called_with = {
            "class_name": meta.get("class_name", module.name.rpartition(".")[2]),
            "init_args": state.get("_init_args", ()),
        }
        return {
            **self._plain(called_with),
            "init_kwargs": self._plain(self._dict(state.get("_init_kwargs", {}), "_init_kwargs")),
            "attributes": self._plain(
                {
                    name: value
                    for name, value in state.items()
                    if not (isinstance(name, str) and name.startswith("_"))
                }
            ),
        }

    def _plain(self, values: dict[Any, Any]) -> dict[str, Any]:
        """Select the values that are plain data and whose names are strings."""
        found = {}
        for name, value in values.items():
            if isinstance(name, str):
                with contextlib.suppress(ValueError, RecursionError):
                    found[name] = plain(self._value(value, name))
        return found

    def _count(self, at: str) -> None:
        """Count a value and raise beyond the limit: nested lists or modules can make a small file describe
        more values than fit into memory.
        """
        self._values += 1
        if self._values > VALUES:
            raise self._error(at, f"at most {VALUES} values", "more")

    def _state(self, module: Any, at: str) -> dict[Any, Any]:
        """The attributes of a module: the `state` of the record for a persistent module, the given state for
        torch's own.
        """
        if not isinstance(module, Record):
            raise self._error(at, "a module", _kind(module))
        if module.name != _PERSISTENT:
            return self._dict(module.state, at)
        meta = self._dict(module.args[0] if len(module.args) == 1 else None, at)
        if meta.get("type") != "class":
            raise self._error(at, "a persistent class", short(meta.get("type")))
        return self._dict(meta.get("state"), at)

    def _dict(self, value: Any, at: str) -> dict[Any, Any]:
        if isinstance(value, Record) and value.name in _DICTS:
            if value.args not in ((), ([],)):
                value.items.update(value.args[0])
            return value.items
        if not isinstance(value, dict):
            raise self._error(at, "a dict", _kind(value))
        return value

    def _value(self, value: Any, at: str) -> Any:
        """Convert records to plain values and containers; records without a plain form stay unchanged."""
        self._count(at)
        if isinstance(value, Record):
            if value.name in _DICTS:
                return {key: self._value(item, at) for key, item in self._dict(value, at).items()}
            if value.name == "builtins.set":
                return set(value.args[0]) if value.args else set()
            if value.name in _SCALARS:
                dtype, data = value.args if len(value.args) == 2 else (None, None)
                if not isinstance(dtype, Record):
                    raise self._error(at, "a numpy number", "another record")
                return number(dtype.args, dtype.state, data)
            return value
        if isinstance(value, Mapping):
            return {key: self._value(item, at) for key, item in value.items()}
        return [self._value(item, at) for item in value] if isinstance(value, list | tuple) else value

    def _tensor(self, value: Any, at: str) -> Tensor:
        if isinstance(value, Record) and value.name == "torch._utils._rebuild_parameter" and value.args:
            value = value.args[0]
        if (
            not isinstance(value, Record)
            or value.name != "torch._utils._rebuild_tensor_v2"
            or len(value.args) < 4
        ):
            raise self._error(at, "a tensor", _kind(value))
        storage, offset, size, stride = value.args[:4]
        try:
            untyped, dtype = self._storage(storage, at)
            flat = torch.empty(0, dtype=dtype).set_(untyped)
            return flat.as_strided(size, stride, offset)  # raises for a view beyond the storage
        except (RuntimeError, TypeError) as error:
            raise self._error(at, "a tensor within its storage", str(error).partition("\n")[0]) from error

    def _storage(self, record: Any, at: str) -> tuple[torch.UntypedStorage, torch.dtype]:
        """Load the storage from the record's bytes, a torch.save of one; shared by all tensors on it."""
        if (
            not isinstance(record, Record)
            or record.name != "torch.storage._load_from_bytes"
            or len(record.args) != 1
        ):
            raise self._error(at, "a tensor's storage", _kind(record))
        if not isinstance(record.args[0], bytes):
            raise self._error(at, "the bytes of a storage", _kind(record.args[0]))
        key = id(
            record.args[0]
        )  # the bytes live as long as this reader; equal records must not create many storages
        if key not in self._storages:
            storage = load_torch(record.args[0], f"{self.source}, the storage of {short(at)}")
            if not isinstance(storage, torch.TypedStorage):
                raise self._error(at, "a storage", _kind(storage))
            self._storages[key], self._dtypes[key] = storage._untyped_storage, storage.dtype
        return self._storages[key], self._dtypes[key]

    def _error(self, at: str, expected: str, found: str) -> ValueError:
        where = f" at {short(at)}" if at else ""
        return ValueError(
            f"{self.source}: expected {expected}{where}, found {found}: this is not a network of EDM's, or "
            "the file is damaged"
        )


def _kind(value: Any) -> str:
    return value.name if isinstance(value, Record) else type(value).__name__
