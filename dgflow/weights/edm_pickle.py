"""EDM's `.pkl` files, read without running them: pickles of a whole network, with its source code inside.

Promises that nothing in the file is executed or imported. The pickle machine may only make `_Record`s, which keep what they are given, one
class of them for each global that such files are known to name; any other global is refused by name. The network's own source
(`module_src`) is never looked at. The tensors are built afterwards, from the records, and checked against the storage that they view.
"""

from __future__ import annotations

import contextlib
import io
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dgflow.weights.numpy_scalars import number
from dgflow.weights.torch_file import load_torch, refusal
from dgflow.weights.weight_file import File, WeightFile, as_path, called, plain

_PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_DICTS = ("collections.OrderedDict", "dnnlib.util.EasyDict")
_ALLOWED = frozenset(
    {
        _PERSISTENT,
        *_DICTS,
        *_SCALARS,
        "builtins.set",
        "numpy.dtype",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor_v2",
        "torch.nn.modules.container.ModuleDict",
        "torch.storage._load_from_bytes",
    }
)
_DEEPEST = 100  # modules within modules; EDM's networks have five


class _Record:
    """An object that a pickle describes, not made: what its class or function was called with, its items, and its state."""

    name: str  # the global's
    args: tuple[Any, ...]
    items: dict[Any, Any]
    state: Any

    def __new__(cls, *args: Any) -> _Record:  # not in __init__, which pickles can go around
        made = super().__new__(cls)
        made.args, made.items, made.state = args, {}, None
        return made

    def __init__(self, *args: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Refused(pickle.UnpicklingError):
    pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> type[_Record]:
        name = f"{module_name}.{global_name}"
        if name not in _ALLOWED:
            raise _Refused(name)
        return type("Record", (_Record,), {"name": name})  # a new one each time, so that a file can alter nothing that outlives it


def read_edm_pickle(file: File, *, source: str | None = None) -> WeightFile:
    """The tensors of the pickle's `ema` network, by their state-dict names, which begin with `model.`.

    Returns:
        Settings: `class_name` (such as "EDMPrecond"), `init_args`, `init_kwargs` (what it was constructed with) and `attributes` (its plain
        ones, such as sigma_min), and under `model` the same of the network inside.

    Raises:
        ValueError: a global that is not among those of such files, a file of another kind, damaged or cut short.
    """
    name = called(file, source)
    try:
        with io.BytesIO(file) if isinstance(file, bytes) else as_path(file).open("rb") as opened:
            found = _Unpickler(opened).load()
    except _Refused as error:
        raise ValueError(refusal(name, str(error))) from error
    except (MemoryError, FileNotFoundError):
        raise
    except Exception as error:  # a damaged pickle can fail in any of its instructions
        raise ValueError(
            f"{name}: expected a whole pickle of EDM's, found another file or a damaged one ({error!r}): fetch it again"
        ) from error
    reader = _Reader(name)
    if not isinstance(found, dict) or "ema" not in found:
        keys = sorted(map(str, found)) if isinstance(found, dict) else f"a {_kind(found)}"
        raise ValueError(f"{name}: expected EDM's pickle of a dict with 'ema', found {keys}: name the format that this file has")
    network = found["ema"]
    try:
        return WeightFile(dict(reader.tensors(network, "", 0)), reader.settings(network))
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # records may be put together in any way
        raise ValueError(
            f"{name}: expected a network of EDM's under 'ema', found records that are none ({error!r}): fetch it again"
        ) from error


class _Reader:
    """Makes tensors and settings of the records of one file."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._dtypes: dict[int, torch.dtype] = {}

    def tensors(self, module: Any, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
        """As `state_dict()`: parameters, then persistent buffers, then those of the modules inside."""
        if depth > _DEEPEST:
            raise self._error(prefix, f"modules at most {_DEEPEST} deep", "more")
        state = self._state(module, prefix)
        transient = self._value(state.get("_non_persistent_buffers_set") or set(), prefix)
        for name, value in self._dict(state.get("_parameters", {}), prefix).items():
            if value is not None:
                yield f"{prefix}{name}", self._tensor(value, f"{prefix}{name}")
        for name, value in self._dict(state.get("_buffers", {}), prefix).items():
            if value is not None and name not in transient:
                yield f"{prefix}{name}", self._tensor(value, f"{prefix}{name}")
        for name, child in self._dict(state.get("_modules", {}), prefix).items():
            if child is not None:
                yield from self.tensors(child, f"{prefix}{name}.", depth + 1)

    def settings(self, module: Any) -> dict[str, Any]:
        """Of a persistent module, and of its child `model` where it has one."""
        found = self._described(module)
        child = self._dict(self._state(module, "").get("_modules", {}), "").get("model")
        return found if child is None else {**found, "model": self._described(child)}

    def _described(self, module: Any) -> dict[str, Any]:
        state = self._state(module, "")
        meta = self._dict(module.args[0], "") if module.name == _PERSISTENT else {}
        attributes = {}
        for name, value in state.items():
            if not str(name).startswith("_"):
                with contextlib.suppress(ValueError):  # what is not plain data is no setting
                    attributes[name] = plain(self._value(value, str(name)))
        return {
            "class_name": plain(meta.get("class_name", module.name.rpartition(".")[2])),
            "init_args": plain(self._value(state.get("_init_args", ()), "_init_args")),
            "init_kwargs": plain(self._value(state.get("_init_kwargs", {}), "_init_kwargs")),
            "attributes": attributes,
        }

    def _state(self, module: Any, at: str) -> dict[Any, Any]:
        """The attributes of a module: of a persistent one, the `state` of its record; of torch's own, what it was given."""
        if not isinstance(module, _Record):
            raise self._error(at, "a module", _kind(module))
        if module.name != _PERSISTENT:
            return self._dict(module.state, at)
        meta = self._dict(module.args[0] if len(module.args) == 1 else None, at)
        if meta.get("type") != "class":
            raise self._error(at, "a persistent class", repr(meta.get("type")))
        return self._dict(meta.get("state"), at)

    def _dict(self, value: Any, at: str) -> dict[Any, Any]:
        if isinstance(value, _Record) and value.name in _DICTS:
            if value.args not in ((), ([],)):
                value.items.update(value.args[0])
            return value.items
        if not isinstance(value, dict):
            raise self._error(at, "a dict", _kind(value))
        return value

    def _value(self, value: Any, at: str) -> Any:
        """Plain containers of what records stand for, as far as that is plain; other records stay as they are."""
        if isinstance(value, _Record):
            if value.name in _DICTS:
                return {key: self._value(item, at) for key, item in self._dict(value, at).items()}
            if value.name == "builtins.set":
                return set(value.args[0]) if value.args else set()
            if value.name in _SCALARS:
                dtype, data = value.args if len(value.args) == 2 else (None, None)
                if not isinstance(dtype, _Record):
                    raise self._error(at, "a numpy number", "another record")
                return number(dtype.args, dtype.state, data)
            return value
        if isinstance(value, Mapping):
            return {key: self._value(item, at) for key, item in value.items()}
        return [self._value(item, at) for item in value] if isinstance(value, list | tuple) else value

    def _tensor(self, value: Any, at: str) -> Tensor:
        if isinstance(value, _Record) and value.name == "torch._utils._rebuild_parameter" and value.args:
            value = value.args[0]
        if not isinstance(value, _Record) or value.name != "torch._utils._rebuild_tensor_v2" or len(value.args) < 4:
            raise self._error(at, "a tensor", _kind(value))
        storage, offset, size, stride = value.args[:4]
        try:
            untyped, dtype = self._storage(storage, at)
            flat = torch.empty(0, dtype=dtype).set_(untyped)
            return flat.as_strided(size, stride, offset)  # refuses a view beyond the storage
        except (RuntimeError, TypeError) as error:
            raise self._error(at, "a tensor within its storage", str(error).partition("\n")[0]) from error

    def _storage(self, record: Any, at: str) -> tuple[torch.UntypedStorage, torch.dtype]:
        """The storage in the record's bytes, which are a torch.save of one; the same one for all tensors that share it."""
        key = id(record)  # records live as long as this reader
        if key not in self._storages:
            if not isinstance(record, _Record) or record.name != "torch.storage._load_from_bytes" or len(record.args) != 1:
                raise self._error(at, "a tensor's storage", _kind(record))
            if not isinstance(record.args[0], bytes):
                raise self._error(at, "the bytes of a storage", _kind(record.args[0]))
            storage = load_torch(record.args[0], f"{self.source}, the storage of {at!r}")
            if not isinstance(storage, torch.TypedStorage):
                raise self._error(at, "a storage", _kind(storage))
            self._storages[key], self._dtypes[key] = storage._untyped_storage, storage.dtype
        return self._storages[key], self._dtypes[key]

    def _error(self, at: str, expected: str, found: str) -> ValueError:
        where = f" at {at!r}" if at else ""
        return ValueError(f"{self.source}: expected {expected}{where}, found {found}: this is not a network of EDM's, or it is damaged")


def _kind(value: Any) -> str:
    return value.name if isinstance(value, _Record) else type(value).__name__
