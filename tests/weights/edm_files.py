"""Pickles in EDM's published format, made of any network: every module a persistent object with its source text, ModuleDicts torch's own.

The modules and classes that such pickles name exist only while one is written, so a reader that imported them would fail.
"""

import pickle
import sys
import types
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

SOURCE = "raise AssertionError('the source code of a pickled network was executed')"


class _Persistent:
    """Reduces as EDM's persistent objects do: a function by name, with one dict."""

    def __init__(self, meta: dict[str, Any]) -> None:
        self.meta = meta

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["torch_utils.persistence"].__dict__["_reconstruct_persistent_obj"], (self.meta,), None


def edm_pickle(
    network: nn.Module, *, init_kwargs: dict[str, Any], source: str = SOURCE, change: Callable[[dict[str, Any]], None] | None = None
) -> bytes:
    """The file for `network`, under "ema". `init_kwargs` are those of the module inside; `change` edits the outer one's state."""

    def _reconstruct_persistent_obj(meta: Any) -> Any:
        raise AssertionError("called while writing")

    class EasyDict(dict[str, Any]):
        pass

    modules = {name: types.ModuleType(name) for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")}
    for value, name in ((_reconstruct_persistent_obj, "torch_utils.persistence"), (EasyDict, "dnnlib.util")):
        value.__module__, value.__qualname__ = name, value.__name__
        setattr(modules[name], value.__name__, value)
    with mock.patch.dict(sys.modules, modules):
        outer = _persistent(network, {"": EasyDict(sigma_data=np.float64(0.5)), "model": EasyDict(init_kwargs)}, source, "", change)
        return pickle.dumps({"ema": outer, "augment_pipe": None, "dataset_kwargs": EasyDict(resolution=8, use_labels=False)})


def _persistent(
    module: nn.Module, kwargs: dict[str, Any], source: str, path: str, change: Callable[[dict[str, Any]], None] | None = None
) -> Any:
    children = {
        name: None if child is None else _persistent(child, kwargs, source, f"{path}.{name}".lstrip("."))
        for name, child in module._modules.items()
    }
    state = {**module.__dict__, "_modules": children}
    if isinstance(module, nn.ModuleDict):
        container = nn.ModuleDict()
        container.__dict__.update(state)
        return container
    for name in ("img_resolution", "label_dim"):
        if name in state:
            state[name] = np.int64(state[name])
    state |= {"_init_args": (), "_init_kwargs": kwargs.get(path, {})}
    if change:
        change(state)
    return _Persistent({"type": "class", "version": 6, "module_src": source, "class_name": type(module).__name__, "state": state})


class Buffered(nn.Module):
    """A module with what EDM's networks have no example of: a buffer that is not stored, shared storage, an absent parameter."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.arange(12.0)
        self.register_buffer("kept", whole[2:8].reshape(2, 3).t())
        self.register_buffer("same_storage", whole[:4])
        self.register_buffer("transient", torch.ones(3), persistent=False)
        self.register_parameter("absent", None)
        self.small = nn.Parameter(torch.tensor([1.5, -2.0], dtype=torch.float16))
