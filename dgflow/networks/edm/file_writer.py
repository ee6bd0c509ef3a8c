"""Write any network as a pickle in the published format of EDM and EDM2, for smoke runs and tests without the
published files.

Every module is a persistent object with its source text; ModuleDicts are torch's own. The modules and classes
that the pickles name exist only during writing, so a reader that imports them fails. The source text raises
an error if executed.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import nn

SOURCE = "raise AssertionError('the source code of a pickled network was executed')"


class Persistent:
    """An object that is pickled like EDM's persistent objects: a function by name, with one dict."""

    def __init__(self, meta: dict[str, Any]) -> None:
        self.meta = meta

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            sys.modules["torch_utils.persistence"].__dict__["_reconstruct_persistent_obj"],
            (self.meta,),
            None,
        )


def write_edm_pickle(
    network: nn.Module,
    *,
    init_kwargs: dict[str, Any],
    source: str = SOURCE,
    change: Callable[[dict[str, Any]], None] | None = None,
    beside: Mapping[str, Any] = MappingProxyType({}),
) -> bytes:
    """Return the file for `network`, stored under "ema".

    Args:
        network: one of EDM's preconditioners with a network inside, or EDM2's.
        init_kwargs: the constructor's arguments of the network inside (`model`), or of `network` if there is
            none.
        source: the text stored as each module's source code.
        change: a function that edits the outermost module's state.
        beside: further entries of the file.
    """
    with _named_modules() as easy_dict:
        kwargs = {"": easy_dict(init_kwargs)}
        if has_model := "model" in network._modules:
            kwargs = {"": easy_dict(sigma_data=np.float64(0.5)), "model": easy_dict(init_kwargs)}
        content = {
            "ema": _persistent(network, kwargs, source, "", change),
            "dataset_kwargs": easy_dict(resolution=8, use_labels=False),
            **beside,
        }
        return pickle.dumps({**content, "augment_pipe": None} if has_model else easy_dict(content))


@contextlib.contextmanager
def _named_modules() -> Iterator[type[dict[str, Any]]]:
    """A context in which the modules that the pickle names exist; yields `dnnlib.util.EasyDict`."""

    def _reconstruct_persistent_obj(meta: Any) -> Any:
        raise AssertionError("called while writing")

    class EasyDict(dict[str, Any]):
        pass

    modules = {
        name: types.ModuleType(name)
        for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
    }
    for value, name in ((_reconstruct_persistent_obj, "torch_utils.persistence"), (EasyDict, "dnnlib.util")):
        value.__module__, value.__qualname__ = name, value.__name__
        setattr(modules[name], value.__name__, value)
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield EasyDict
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _persistent(
    module: nn.Module,
    kwargs: dict[str, Any],
    source: str,
    path: str,
    change: Callable[[dict[str, Any]], None] | None = None,
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
    return Persistent(
        {
            "type": "class",
            "version": 6,
            "module_src": source,
            "class_name": type(module).__name__.removesuffix("Module"),  # our class names end in Module
            "state": state,
        }
    )
