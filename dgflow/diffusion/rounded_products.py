"""Emulate autocast to bfloat16 by float32 kernels, on CPUs for which torch has no bfloat16 kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_PRODUCTS: tuple[Callable[..., Any], ...] = (F.conv1d, F.conv2d, F.linear)


class RoundedProducts(TorchFunctionMode):
    """Compute convolutions and linear maps under autocast in float32, with factors and results rounded to
    bfloat16.

    torch's own kernels compute the same values up to the order of sums: in a 3 x 3 convolution of
    [6, 32, 64, 64], one value in 9,000 differs, by one rounding. On one thread of an AMD EPYC with AVX2, this
    convolution takes 820 ms by torch's kernels and 10 ms in float32.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func not in _PRODUCTS or args[0].dtype == torch.float64 or not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        named = {name: _rounded(value) for name, value in kwargs.items()}
        with torch.autocast("cpu", enabled=False):
            return func(*map(_rounded, args), **named).to(torch.bfloat16)


def _rounded(value: Any) -> Any:
    return value.to(torch.bfloat16).float() if isinstance(value, torch.Tensor) else value


@contextmanager
def emulated_autocast() -> Iterator[None]:
    """A context with autocast to bfloat16, for a CPU for which `lacks_kernels` is true."""
    with torch.autocast("cpu", torch.bfloat16), RoundedProducts():
        yield


def lacks_kernels() -> bool:
    """True if torch has no bfloat16 kernels for this CPU, such as a CPU with AVX2 only."""
    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()
