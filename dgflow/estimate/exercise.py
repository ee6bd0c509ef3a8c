"""A network with fresh weights, asked once as a step asks it: counted without memory, or timed on a device.

Promises that counting and timing exercise the same calls. FLOP are floating-point operations: a
multiplication and an addition are two (papers often state multiply-adds, half as many). Only convolutions and
products of matrices are counted; the rest is under a few per cent.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from dgflow.estimate.costs import Use
from dgflow.networks.roles import AutoencoderSpec
from dgflow.specs.spec import Precision
from dgflow.specs.step import NetworkStep, Weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from dgflow.specs.bound import Bound

NOISE_LEVEL = (
    1.0  # sigma that networks are asked at; every one of them knows it, and none takes longer at another
)


class _Unbound:
    """Stands for what a network step reads before any of it is there: networks with fresh weights."""

    def __init__(self, step: NetworkStep) -> None:
        self.step = step

    def network(self, name: str) -> nn.Module:
        reference = self.step.inputs()[name]
        assert isinstance(reference, Weights)
        return fresh(reference.step)


def fresh(step: NetworkStep) -> nn.Module:
    """The network of a step, with the networks that it reads: fresh weights, on the device of the context.

    Raises ValueError where a package that it is made of is not installed.
    """
    try:
        return step.build(cast("Bound", _Unbound(step)))
    except ImportError as error:
        raise ValueError(f"{step.title}: the network cannot be built: {error}") from error


@dataclass(frozen=True)
class Flops:
    """Of one row. Convolutions and other products apart, since devices take them at different speeds in
    float32."""

    convolutions: float
    products: float

    @property
    def total(self) -> float:
        return self.convolutions + self.products


def count(step: NetworkStep, network: nn.Module, use: Use) -> Flops:
    """FLOP of `use` of one row; `network` is on the meta device.

    Raises ValueError for a network that cannot be run there, as one that looks at its values.
    """
    from torch.utils.flop_counter import FlopCounterMode

    try:
        with FlopCounterMode(display=False) as counter:
            run(step, network, use, 1)
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"{step.title}: its operations cannot be counted without running it: {error}. Use --pilot"
        ) from error
    found = {str(name): flops for name, flops in counter.get_flop_counts()["Global"].items()}
    convolutions = sum(flops for name, flops in found.items() if "conv" in name)
    return Flops(convolutions, sum(found.values()) - convolutions)


def timed(step: NetworkStep, network: nn.Module, use: Use, rows: int, precision: Precision) -> float:
    """Seconds that `use` of a batch of `rows` takes where `network` is, when the device has done all of it."""
    import torch

    from dgflow.diffusion.acceleration import autocast, products

    device = _device(network)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    activations = (
        "float32" if use in ("forward", "gradient") else precision
    )  # samplers convert the weights, and not what flows
    with products(precision), autocast(device, activations):
        wait()
        began = time.perf_counter()
        run(step, network, use, rows)
        wait()
    return time.perf_counter() - began


def run(step: NetworkStep, network: nn.Module, use: Use, rows: int) -> None:
    """`use` of a batch of `rows` made-up samples."""
    import torch

    trains = use == "train"
    part = step.trained_part(network)
    network.train(trains).requires_grad_(False)
    part.requires_grad_(trains)
    backward = use in ("gradient", "train")
    with torch.set_grad_enabled(backward):
        out = _asked(step, network, use, rows)
    if backward:
        out.sum().backward()
        part.zero_grad(set_to_none=True)


def _asked(step: NetworkStep, network: nn.Module, use: Use, rows: int) -> Tensor:
    """The output for noise."""
    import torch

    spec, shape, device = step.architecture, step.shape, _device(network)
    x = torch.randn(rows, shape.channels, shape.image_size, shape.image_size, device=device)
    if use == "decode":
        assert isinstance(spec, AutoencoderSpec)
        return spec.probe_decoder(network, x)
    labels = torch.zeros(rows, dtype=torch.int64, device=device) if step.classes else None
    sigma = torch.full((rows,), NOISE_LEVEL, dtype=torch.float64, device=device)
    return spec.probe(network, x.requires_grad_(use == "gradient"), sigma, labels)


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
