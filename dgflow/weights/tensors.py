"""Weights as safetensors bytes, and loading them into a network with nothing missing, left over or misshaped.

Nothing is ever executed: a pickle, or anything else that is not safetensors, is refused. The same tensors
give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

SHOWN = 4
"""Names that an error lists of each kind, before it counts the rest."""


def save_weights(state_dict: Mapping[str, Tensor]) -> bytes:
    """The tensors as one safetensors file, from any device.

    Equal names, dtypes, shapes and values give equal bytes.
    """
    # Clones, because safetensors refuses tensors that share memory; sorted, because equal state dicts should
    # not differ by their history.
    return safetensors.torch.save(
        {name: state_dict[name].detach().cpu().contiguous().clone() for name in sorted(state_dict)}
    )


def load_weights(data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        ValueError: the bytes are something else, or are not whole.
    """
    try:
        return safetensors.torch.load(data)
    except (
        safetensors.SafetensorError,
        KeyError,
        TypeError,
        RuntimeError,
    ) as error:  # a number format or a shape that torch does not have
        found = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"expected a whole safetensors file, found {_guess(data)} ({found}): {_remedy(data)}"
        ) from error


def load_into(network: nn.Module, state_dict: Mapping[str, Tensor], *, source: str) -> None:
    """Copy `state_dict` into `network`, parameters and buffers alike, keeping the network's dtypes and
    devices.

    Args:
        source: where the weights come from, for the error.

    Raises:
        ValueError: as `check_fits`; the network is then as it was.
    """
    check_fits(network, state_dict, source=source)
    network.load_state_dict(dict(state_dict), strict=True)


def check_fits(network: nn.Module, state_dict: Mapping[str, Tensor], *, source: str) -> None:
    """Compare the names, shapes and kinds of numbers of `state_dict` with those of `network`, which may be on
    the meta device.

    Floating-point weights may have any of the formats of 16 bits and more; other numbers have to be of the
    network's kind.

    Raises:
        ValueError: names missing or unexpected, or tensors of another shape or kind.
    """
    expected = network.state_dict()
    misshaped = [
        name for name in expected if name in state_dict and not _fits(expected[name], state_dict[name])
    ]
    problems = [
        _listed("missing", [name for name in expected if name not in state_dict], _named),
        _listed("unexpected", [name for name in state_dict if name not in expected], _named),
        _listed(
            "misshaped",
            misshaped,
            lambda n: f"{_named(n)} expected {_form(expected[n])} found {_form(state_dict[n])}",
        ),
    ]
    found = [problem for problem in problems if problem]
    if found:
        kind = type(network).__name__.removesuffix("Module")
        raise ValueError(
            f"the weights of {source} do not fit this {kind} ({len(expected)} tensors): "
            f"{'; '.join(found)}. Build the network "
            "with the settings that it was trained with, or name the file that belongs to these settings."
        )


def _fits(expected: Tensor, found: object) -> bool:
    return (
        isinstance(found, Tensor)
        and not found.is_meta
        and (expected.shape, _kind(expected)) == (found.shape, _kind(found))
    )


def _kind(tensor: Tensor) -> str:
    """The kind of its numbers, as far as copying them to another kind would lose more than digits."""
    dtype = tensor.dtype
    if dtype.is_floating_point:
        return "floating" if dtype.itemsize >= 2 else str(dtype)
    return (
        "complex"
        if dtype.is_complex
        else "boolean"
        if dtype == torch.bool
        else "integer"
        if not tensor.is_quantized
        else "quantized"
    )


def _form(value: object) -> str:
    """A tensor's shape, and its dtype."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    values = " without values" if value.is_meta else ""
    return f"{list(value.shape)} of {str(value.dtype).removeprefix('torch.')}{values}"


def _named(name: object) -> str:
    """A name as a file may have it, with nothing that a terminal would act on."""
    return repr(str(name))[1:-1][:120]


def _listed(kind: str, names: list[str], describe: Callable[[str], str]) -> str:
    if not names:
        return ""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {kind} ({', '.join(describe(name) for name in names[:SHOWN])}{rest})"


def _is_pickle(data: bytes) -> bool:
    return data[:2] == b"PK" or data[:1] == b"\x80"


def _guess(data: bytes) -> str:
    if not data:
        return "nothing, the file is empty"
    return (
        "a pickle or a torch.save archive"
        if _is_pickle(data)
        else f"{len(data)} bytes that are damaged, cut short or in another format"
    )


def _remedy(data: bytes) -> str:
    if _is_pickle(data):
        return "it is not opened, since reading it could run code; convert it to safetensors first"
    return "fetch or write the file again"
