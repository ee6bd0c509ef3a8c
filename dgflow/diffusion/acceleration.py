"""Choose the device of a process, and prepare networks for sampling: move, convert, freeze.

Parameters get no gradients: computing them makes a guidance evaluation 1.4 times as expensive (CIFAR-10, one
CPU thread). Figures: `benchmarks/sampling.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar, get_args

import torch
from torch import nn

from dgflow.diffusion.float16 import to_float16
from dgflow.diffusion.rounded_products import emulated_autocast, lacks_kernels
from dgflow.specs.spec import Precision

Network = TypeVar("Network", bound=nn.Module)


def device() -> torch.device:
    """The GPU assigned to this process; the CPU if there is none.

    In a process without GPUs, `CUDA_VISIBLE_DEVICES` is set to an empty string. The variable is read here,
    since torch ignores its changes once it has counted the GPUs.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    return torch.device("cuda" if not hidden and torch.cuda.is_available() else "cpu")


def prepared(
    network: Network, *, precision: Precision = "float32", device: torch.device | str = "cpu"
) -> Network:
    """Prepare `network` in place for sampling or guidance and return it: on the device, in evaluation mode,
    with frozen parameters.

    The memory format is channels_last on CUDA, for bfloat16 and for float16. In float32 on a CPU,
    channels_last gains nothing at the published sizes, and the gradient of a small encoder (32 channels, 16 x
    16 pixels) takes 1.8 times as long.

    Args:
        precision: precision of the weights and activations. For "tf32" the weights are float32, and
            `products` rounds. Networks may keep parts in float32 (`networks.precision`, `float16`).

    Raises ValueError for another precision, and for weights that float16 cannot hold.
    """
    precisions = get_args(Precision)
    if precision not in precisions:
        raise ValueError(f"expected precision {', '.join(precisions)}, found {precision!r}")
    device = torch.device(device)
    network.to(device).requires_grad_(False).eval()
    if precision == "float16":
        to_float16(network)
    else:
        network.to(torch.bfloat16 if precision == "bfloat16" else torch.float32)
    if device.type == "cuda" or precision in ("bfloat16", "float16"):
        network.to(memory_format=torch.channels_last)
    return network


@contextmanager
def products(precision: Precision) -> Iterator[None]:
    """A context in which CUDA rounds the factors of float32 matrix products to ten bits for "tf32", which is
    seven times as fast on an H100, and does not round for any other precision.

    Convolutions keep torch's default, which may round. Nothing changes on a CPU.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """A context in which activations are bfloat16 if `precision` is "bfloat16"; weights are not converted."""
    narrow = precision == "bfloat16"
    if narrow and device.type == "cpu" and not torch.compiler.is_compiling() and lacks_kernels():
        return emulated_autocast()
    return torch.autocast(device.type, torch.bfloat16, enabled=narrow)
