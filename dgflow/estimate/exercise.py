"""A network with fresh weights, asked once as a step asks it: counted without memory, or timed on a device.

Promises that counting and timing exercise the same calls. FLOP are floating-point operations: a
multiplication and an addition are two (papers often state multiply-adds, half as many). Only convolutions and
products of matrices are counted; the rest is under a few per cent.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, get_args

from dgflow.estimate.costs import Precision, Use
from dgflow.networks.adm.spec import ADMEncoder
from dgflow.networks.discriminator.spec import Discriminator
from dgflow.networks.families import ScoreNetwork
from dgflow.networks.inception.spec import InceptionV3
from dgflow.networks.own.spec import OwnFeatures
from dgflow.specs.step import NetworkStep, Weights
from dgflow.steps.guides import classes_of
from dgflow.steps.shapes import network_shape
from dgflow.steps.training.train_discriminator import TrainDiscriminator

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

    place = _place(network)
    wait = torch.cuda.synchronize if place.type == "cuda" else lambda: None
    activations = (
        "float32" if use in ("forward", "gradient") else precision
    )  # samplers convert the weights, and not what flows
    with products(precision), autocast(place, activations):
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
    """What the network gives for noise."""
    import torch

    spec: Any = step.network  # type: ignore[attr-defined]
    shape, place = network_shape(step), _place(network)

    def noise(side: int, channels: int) -> Tensor:
        return torch.randn(rows, channels, side, side, device=place).requires_grad_(use == "gradient")

    x = noise(shape.image_size, shape.channels)
    if use == "encode":
        side, channels = spec.latent_shape(shape.image_size)
        drawn = (
            [noise(side, channels)] if hasattr(spec, "num_groups_per_scale") else []
        )  # NVAE's latents are drawn as they come
        found = spec.encode(network, x, *drawn)
        return found[0] if isinstance(found, tuple) else found
    if use == "decode":
        return spec.decode(network, noise(*spec.latent_shape(shape.image_size)))
    if isinstance(spec, InceptionV3):
        # Its forward sets the precision of a device, and meta is none.
        return (network._features if x.is_meta else network)(x).pooled  # type: ignore[operator]
    if isinstance(spec, OwnFeatures):
        found = network(x)
        return found[0] if isinstance(found, tuple) else found
    classes = classes_of(step)
    labels = torch.zeros(rows, dtype=torch.int64, device=place) if classes else None
    sigma = torch.full((rows,), NOISE_LEVEL, dtype=torch.float64, device=place)
    if isinstance(spec, get_args(ScoreNetwork)):
        return spec.score_model(network).denoiser(x.double(), sigma, labels)
    if isinstance(spec, Discriminator) or isinstance(step, TrainDiscriminator):
        return network(x, sigma.float(), labels)
    assert isinstance(spec, ADMEncoder), step
    return network(x, sigma.float())


def _place(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
