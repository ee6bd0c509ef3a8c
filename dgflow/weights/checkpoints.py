"""Find the one part of a trainer's checkpoint that fits a network, under the network's parameter names.

Module wrappers leave prefixes (`module.`, `_orig_mod.`, `ema_model.`), and trainers store state dicts beside
other values (`state_dict`, `ema`, optimizers). A module that only wraps the saved network (`self.net`) adds a
name. A part fits if it has exactly the network's names and shapes, apart from these prefixes. It is used if
no part with other values fits; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dgflow.weights.weight_file import check_state_dict, short, some

_INNER = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""Name components that torch's wrappers insert."""
_DEEPEST = 3  # maximum depth of nested dicts that are searched
_TRIED = 16  # approximate number of the network's names with which prefixes are searched


@dataclass(frozen=True)
class Part:
    """A state dict in a file: the keys that lead to it, and how its names differ from the network's."""

    path: tuple[str, ...]
    prefix: str  # what all its names have in addition
    inner: tuple[str, ...]
    tensors: Mapping[str, Any]  # tensors by the network's names
    wrapper: str = ""  # what all the network's names have in addition

    @property
    def key(self) -> str:
        """The key by which a recipe names the part."""
        return ".".join((*self.path, *self.prefix.rstrip(".").split("."))).strip(".")

    @property
    def note(self) -> str:
        """A description of what was selected and removed; empty for a plain state dict."""
        stripped = [repr(part) for part in (self.prefix, *self.inner) if part]
        taken = f"took {'.'.join(self.path)!r}" if self.path else ""
        removed = f"removed {' and '.join(stripped)} from its names" if stripped else ""
        added = f"added {self.wrapper!r} to its names" if self.wrapper else ""
        return " and ".join(filter(None, (taken, removed, added)))


def fitting(
    found: Any, network: nn.Module, source: str, key: str | None = None
) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of the only part of `found` that fits `network`, and a note of what was selected or
    removed.

    If no part fits, the tensors of the part with the most names of the network are returned, so that an error
    can list the differences.

    Args:
        key: the key of the part, needed if several parts with different values fit.

    Raises:
        ValueError: several parts with different values fit, no part that fits has the key, or no part has
            names of the network.
    """
    expected = network.state_dict()
    parts = _candidates(found, expected) if expected else []
    fit = [part for part in parts if _fits(part.tensors, expected)]
    if key is not None:
        chosen = [part for part in fit if part.key == key or part.key.startswith(f"{key}.")]
        if not chosen:
            raise ValueError(
                f"{source}: expected weights for this network under {key!r}, found "
                f"{_listed(fit) or 'none that fit'}: give the key of weights that fit, or leave it out"
            )
        fit = chosen
    elif any(not part.key for part in fit):
        fit = [part for part in fit if not part.key]
    if len(fit) > 1 and not all(_equal(fit[0], part) for part in fit[1:]):
        raise ValueError(
            f"{source}: expected one state dict that fits this network, found {_listed(fit)}, with different "
            f"values: choose one, as in key={_averaged(fit).key!r}"
        )
    if fit:
        return check_state_dict(dict(fit[0].tensors), source), fit[0].note
    near = max(parts, key=lambda part: len(part.tensors.keys() & expected.keys()), default=None)
    if near is None and (dicts := _dicts(found)):
        raise ValueError(
            f"{source}: expected tensors with this network's names ({some(list(expected))}), found "
            f"{'; '.join(f'{some(list(names))} in {key}' for key, names in dicts.items())}: change the "
            "module's names or the file's"
        )
    if near is None or not near.note:
        return check_state_dict(found, source), ""
    return check_state_dict(dict(near.tensors), source), near.note


def _candidates(found: Any, expected: Mapping[str, Tensor]) -> list[Part]:
    """Return the state dicts in the file with names of the network, or of the only module in it."""
    parts = list(_parts(found, expected))
    wrapper = next(iter(expected)).partition(".")[0] + "."
    if any(_fits(part.tensors, expected) for part in parts) or not all(
        name.startswith(wrapper) for name in expected
    ):
        return parts
    bare = {name.removeprefix(wrapper): tensor for name, tensor in expected.items()}
    for part in _parts(found, bare):
        tensors = {f"{wrapper}{name}": tensor for name, tensor in part.tensors.items()}
        parts.append(replace(part, wrapper=wrapper, tensors=tensors))
    return parts


def _dicts(found: Any) -> dict[str, list[str]]:
    """Return the names in each state dict of a trainer's checkpoint, by its key."""
    items = dict.items(found) if isinstance(found, dict) else ()
    dicts = {
        key: [name for name, each in dict.items(value) if isinstance(name, str) and _has(each)]
        for key, value in items
        if isinstance(key, str) and isinstance(value, dict)
    }
    return {short(key): names for key, names in dicts.items() if names}


def _parts(found: Any, expected: Mapping[str, Tensor], path: tuple[str, ...] = ()) -> Iterator[Part]:
    """Yield every state dict in the file that has names of the network, outermost first."""
    if not isinstance(found, dict):
        return
    tensors = {name: value for name, value in dict.items(found) if isinstance(name, str) and _has(value)}
    if tensors:
        yield from _prefixed(tensors, expected, path)
    if len(path) < _DEEPEST:
        for name, value in dict.items(found):
            if isinstance(name, str) and isinstance(value, dict):
                yield from _parts(value, expected, (*path, name))


def _has(value: Any) -> bool:
    return isinstance(value, Tensor)


def _prefixed(
    tensors: Mapping[str, Any], expected: Mapping[str, Tensor], path: tuple[str, ...]
) -> Iterator[Part]:
    """Yield the state dicts within one dict of tensors, which differ by their prefixes."""
    removed = tuple(part for part in _INNER if not any(part in name for name in expected))
    names = {_without(name, removed): name for name in tensors}
    if len(names) < len(tensors):
        return  # a name occurs both wrapped and unwrapped
    inner = tuple(part for part in removed if any(part in name for name in tensors))
    tried = list(expected)[:: max(1, len(expected) // _TRIED)]
    prefixes = dict.fromkeys(
        name.removesuffix(known)
        for known in tried
        for name in names
        if name == known or name.endswith(f".{known}")
    )
    for prefix in prefixes:
        under = {
            name.removeprefix(prefix): tensors[raw] for name, raw in names.items() if name.startswith(prefix)
        }
        yield Part(path, prefix, inner, under)
    yield from _dotless(names, tensors, expected, path)


def _dotless(
    names: Mapping[str, str],
    tensors: Mapping[str, Any],
    expected: Mapping[str, Tensor],
    path: tuple[str, ...],
) -> Iterator[Part]:
    """Yield the averages that latent diffusion's trainers store, whose names are the network's without
    dots."""
    plain = {name.replace(".", ""): name for name in expected}
    first = next((name for name in plain if name not in expected), None)
    if first is None or len(plain) < len(expected):
        return
    for prefix in [name.removesuffix(first) for name in names if name.endswith(first)]:
        found = {name: tensors[raw] for name, raw in names.items() if name.startswith(prefix)}
        under = {plain.get(name.removeprefix(prefix)): value for name, value in found.items()}
        known = {name: value for name, value in under.items() if name is not None}
        if known.keys() == expected.keys():
            yield Part(path, prefix, (), known)


def _without(name: str, parts: tuple[str, ...]) -> str:
    for part in parts:
        name = name.replace(part, "")
    return name


def _fits(tensors: Mapping[str, Any], expected: Mapping[str, Tensor]) -> bool:
    return tensors.keys() == expected.keys() and all(
        tensors[name].shape == tensor.shape for name, tensor in expected.items()
    )


def _equal(first: Part, second: Part) -> bool:
    return all(torch.equal(value, second.tensors[name]) for name, value in first.tensors.items())


def _listed(parts: list[Part]) -> str:
    return ", ".join(short(part.key) for part in parts)


def _averaged(parts: list[Part]) -> Part:
    """The part whose name marks an average, the usual choice for sampling; otherwise the last part.

    The innermost name decides: of `ema.online_model` and `ema.ema_model` only the second is an average.
    """
    return max(reversed(parts), key=lambda part: ["ema" in name for name in reversed(part.key.split("."))])
