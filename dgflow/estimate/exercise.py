"""Call a network with fresh weights as a step does, to count its operations on the meta device or to time
them.

FLOP are floating-point operations: a multiplication and an addition count as two (papers often state
multiply-adds, which are half as many). Only convolutions and matrix products are counted; other operations
are at most a few per cent.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dgflow.networks.roles import AutoencoderSpec, DiscriminatorSpec
from dgflow.specs.spec import Precision
from dgflow.specs.step import SAMPLING_USES, NetworkStep, Use

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

NOISE_LEVEL = 1.0  # a sigma that every network supports; the cost does not depend on it


@dataclass(frozen=True)
class Flops:
    """FLOP per row, separately for convolutions and other products, whose float32 rates differ."""

    convolutions: float
    products: float

    @property
    def total(self) -> float:
        return self.convolutions + self.products


def count(step: NetworkStep, network: nn.Module, use: Use) -> Flops:
    """Count the FLOP of `use` per row; `network` is on the meta device.

    Raises ValueError for a network that cannot run on the meta device, such as one that reads its values.
    """
    from torch.utils.flop_counter import FlopCounterMode

    try:
        with FlopCounterMode(display=False) as counter:
            run(step, network, use, 1)
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"{step.title}: its operations cannot be counted without running it: {error}. Use --pilot"
        ) from error
    flops = {str(name): number for name, number in counter.get_flop_counts().get("Global", {}).items()}
    convolutions = sum(number for name, number in flops.items() if "conv" in name)
    return Flops(convolutions, sum(flops.values()) - convolutions)


def timed(step: NetworkStep, network: nn.Module, use: Use, rows: int, precision: Precision) -> float:
    """Time `use` on a batch of `rows` in seconds, until the network's device has finished."""
    import torch

    from dgflow.diffusion.acceleration import autocast, products

    device = _device(network)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    # Samplers convert the weights, not the activations.
    activations = "float32" if use in SAMPLING_USES else precision
    with products(precision), autocast(device, activations):
        wait()
        began = time.perf_counter()
        run(step, network, use, rows)
        wait()
    return time.perf_counter() - began


def run(step: NetworkStep, network: nn.Module, use: Use, rows: int) -> None:
    """Perform `use` on a batch of `rows` synthetic samples."""
    import torch

    from dgflow.diffusion.gradient_matching import logits_and_gradients

    trains = use in ("train", "train-gradient")
    part = step.trained_part(network)
    network.train(trains).requires_grad_(False)
    part.requires_grad_(trains)
    backward = trains or use in ("gradient", "head-gradient")
    x = _noise(step, network, rows)
    if use == "train-gradient":
        # A clone, since the counter's hooks refuse a leaf during its backward pass.
        total, gradient = logits_and_gradients(
            lambda y: _asked(step, network, use, y.clone()), x, x.new_full((rows,), NOISE_LEVEL)
        )
        total = total.sum() + gradient.square().sum()
    else:
        with torch.set_grad_enabled(backward):
            total = _asked(step, network, use, x).sum()
    if backward:
        total.backward()
        part.zero_grad(set_to_none=True)


def _noise(step: NetworkStep, network: nn.Module, rows: int) -> Tensor:
    import torch

    shape = step.shape
    return torch.randn(rows, shape.channels, shape.image_size, shape.image_size, device=_device(network))


def _asked(step: NetworkStep, network: nn.Module, use: Use, x: Tensor) -> Tensor:
    """The network's output for noise."""
    import torch

    spec, rows, device = step.architecture, len(x), x.device
    if use == "decode":
        assert isinstance(spec, AutoencoderSpec)
        return spec.probe_decoder(network, x)
    labels = torch.zeros(rows, dtype=torch.int64, device=device) if step.classes else None
    sigma = torch.full((rows,), NOISE_LEVEL, dtype=torch.float64, device=device)
    if use == "head-gradient":
        assert isinstance(spec, DiscriminatorSpec)
        return spec.probe_head(network, x, sigma, labels)
    if use == "gradient":
        x.requires_grad_()
    return spec.probe(network, x, sigma, labels)


def _device(network: nn.Module) -> torch.device:
    """The device of the network's tensors; the CPU for a network without tensors."""
    import torch

    tensors = itertools.chain(network.parameters(), network.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
