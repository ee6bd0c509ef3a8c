"""Encode weights as safetensors bytes, and load them into a network that they fit exactly.

No code from a file is ever executed: a pickle is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

SHOWN = 4  # maximum number of names of each kind in an error; further ones are counted


def save_weights(state_dict: Mapping[str, Tensor]) -> bytes:
    """Encode tensors, from any device, as one safetensors file; equal tensors give equal bytes."""
    # Cloned, because safetensors refuses tensors that share memory; sorted, so that the order of a state dict
    # does not matter.
    return safetensors.torch.save(
        {name: state_dict[name].detach().cpu().contiguous().clone() for name in sorted(state_dict)}
    )


def load_weights(data: bytes) -> dict[str, Tensor]:
    """Decode a safetensors file to tensors on the CPU. Raises ValueError for another format or incomplete
    bytes."""
    try:
        return safetensors.torch.load(data)
    # KeyError, TypeError, RuntimeError: for number formats and shapes that torch does not support.
    except (safetensors.SafetensorError, KeyError, TypeError, RuntimeError) as error:
        line = (str(error).splitlines() or [""])[0]
        if data.startswith((b"PK", b"\x80")):
            found = "a pickle or a torch.save archive"
            remedy = "it is refused, since reading it could run code; convert it to safetensors first"
        else:
            damaged = f"{len(data)} bytes that are damaged, cut short or in another format"
            found = damaged if data else "nothing, the file is empty"
            remedy = "fetch or write the file again"
        raise ValueError(f"expected a whole safetensors file, found {found} ({line}): {remedy}") from error


def load_into(network: nn.Module, state_dict: Mapping[str, Tensor], *, source: str) -> None:
    """Copy parameters and buffers into `network`, keeping its dtypes and devices.

    Raises ValueError as `check_fits` does, and then leaves the network unchanged.
    """
    check_fits(network, state_dict, source=source)
    network.load_state_dict(dict(state_dict), strict=True)


def check_fits(network: nn.Module, state_dict: Mapping[str, Tensor], *, source: str) -> None:
    """Check that names, shapes and kinds of numbers match `network`, which may be on the meta device.

    Floating-point weights may have any format of at least 16 bits; other numbers must be of the same kind.

    Args:
        source: the origin of the weights, for the error.

    Raises:
        ValueError: names are missing or unexpected, or tensors have another shape or kind.
    """
    expected = network.state_dict()
    missing = [_plain(name) for name in expected if name not in state_dict]
    unexpected = [_plain(name) for name in state_dict if name not in expected]
    misshaped = [
        f"{_plain(name)} expected {_form(tensor)} found {_form(state_dict[name])}"
        for name, tensor in expected.items()
        if name in state_dict and not _fits(tensor, state_dict[name])
    ]
    problems = [
        f"{len(items)} {fault} ({', '.join(items[:SHOWN])}"
        + (f" and {len(items) - SHOWN} more)" if len(items) > SHOWN else ")")
        for fault, items in (("missing", missing), ("unexpected", unexpected), ("misshaped", misshaped))
        if items
    ]
    if problems:
        kind = type(network).__name__.removesuffix("Module")
        raise ValueError(
            f"the weights of {source} do not fit this {kind} ({len(expected)} tensors): "
            f"{'; '.join(problems)}. Build the network with the settings that the weights were trained with, "
            "or give the file that belongs to these settings."
        )


def _fits(expected: Tensor, value: object) -> bool:
    if not isinstance(value, Tensor) or value.is_meta:
        return False
    return expected.shape == value.shape and _kind(expected) == _kind(value)


def _kind(tensor: Tensor) -> str:
    """The kind of a tensor's numbers. A copy into another kind would lose more than precision."""
    dtype = tensor.dtype
    if dtype.is_floating_point:
        return "floating" if dtype.itemsize >= 2 else str(dtype)
    if dtype.is_complex:
        return "complex"
    if dtype == torch.bool:
        return "boolean"
    return "quantized" if tensor.is_quantized else "integer"


def _form(value: object) -> str:
    """Describe a tensor's shape and dtype."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    values = " without values" if value.is_meta else ""
    return f"{list(value.shape)} of {str(value.dtype).removeprefix('torch.')}{values}"


def _plain(name: object) -> str:
    """A name from a file, without terminal control characters."""
    return repr(str(name))[1:-1][:120]
