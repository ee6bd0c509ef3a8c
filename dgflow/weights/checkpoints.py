"""Checkpoints as trainers write them: the one part of a file that fits a network, under the network's names.

Wrappers of modules leave prefixes (`module.`, `_orig_mod.`, `ema_model.`), and trainers put state dicts
beside other things (`state_dict`, `ema`, optimizers). A part fits where it has every name of the network in
its shape, and none beside them. Where exactly one part fits, it is taken; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dgflow.weights.weight_file import check_state_dict, short

_INNER = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""Parts of names that torch's wrappers put in anywhere."""
_DEEPEST = 3  # dicts within dicts that are searched
_TRIED = 16  # names of the network by which a prefix is found


@dataclass(frozen=True)
class Part:
    """A state dict in a file: the keys that lead to it, and what its names have more than the network's."""

    path: tuple[str, ...]
    prefix: str
    inner: tuple[str, ...]
    tensors: Mapping[str, Any]  # by the network's names

    @property
    def key(self) -> str:
        """The text by which a recipe names it."""
        return ".".join((*self.path, *self.prefix.rstrip(".").split("."))).strip(".")

    @property
    def note(self) -> str:
        """The ways in which it differs from a plain state dict; empty for one."""
        stripped = [repr(part) for part in (self.prefix, *self.inner) if part]
        taken = f"took {'.'.join(self.path)!r}" if self.path else ""
        removed = f"removed {' and '.join(stripped)} from its names" if stripped else ""
        return " and ".join(filter(None, (taken, removed)))


def fitting(
    found: Any, network: nn.Module, source: str, key: str | None = None
) -> tuple[dict[str, Tensor], str]:
    """The tensors of the only part of `found` that fits `network`, and a note of what was taken or removed.

    Where nothing fits, the tensors are those of the part with the most names of the network, for an error
    that names the differences.

    Args:
        key: of the part, where several fit.

    Raises:
        ValueError: several parts fit, none has the key, or there are no tensors.
    """
    expected = network.state_dict()
    parts = list(_parts(found, expected)) if expected else []
    fit = [part for part in parts if _fits(part.tensors, expected)]
    if key is not None:
        chosen = [part for part in fit if part.key == key or part.key.startswith(f"{key}.")]
        if not chosen:
            raise ValueError(
                f"{source}: expected weights for this network under {key!r}, found "
                f"{_listed(fit) or 'none that fit'}: give the key of one that fits, or none"
            )
        fit = chosen
    elif any(not part.key for part in fit):
        fit = [part for part in fit if not part.key]
    if len(fit) > 1 and not all(_equal(fit[0], part) for part in fit[1:]):
        raise ValueError(
            f"{source}: expected one state dict that fits this network, found {_listed(fit)}, with other "
            f"values: say which is meant, as in key={_averaged(fit).key!r}"
        )
    if fit:
        return check_state_dict(dict(fit[0].tensors), source), fit[0].note
    near = max(parts, key=lambda part: len(part.tensors.keys() & expected.keys()), default=None)
    if near is None or not near.note:
        return check_state_dict(found, source), ""
    return check_state_dict(dict(near.tensors), source), near.note


def _parts(found: Any, expected: Mapping[str, Tensor], path: tuple[str, ...] = ()) -> Iterator[Part]:
    """Every state dict in the file that has names of the network, the outermost first."""
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
    """The state dicts in one dict of tensors, which differ by their prefixes."""
    removed = tuple(part for part in _INNER if not any(part in name for name in expected))
    names = {_without(name, removed): name for name in tensors}
    if len(names) < len(tensors):
        return  # a wrapped and an unwrapped name that are the same one
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
    """The averages of latent diffusion's trainers, whose names are the network's without dots."""
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
    """The part that is an average by its name, which is the usual one to sample with; else the last.

    The inmost name decides: of `ema.online_model` and `ema.ema_model` only the second is one.
    """
    return max(reversed(parts), key=lambda part: ["ema" in name for name in reversed(part.key.split("."))])
