"""Evaluate the score network at a point of a sampler's path, and guidance on its result.

All samplers call `evaluate`, so that network and guidance can be compiled as one graph (`one_graph`) or
checked for overflow (`overflow`) with any sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from torch import Tensor

from dgflow.diffusion.guidance import Advice, Bounds, Guide, Point, guide
from dgflow.diffusion.samplers import Denoiser, Predictor
from dgflow.diffusion.times import per_sample

Network = Callable[[tuple[Tensor, ...], Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""(x [B, ...] in EDM's scaling, float64, and any further tensors that the network reads; noise levels sigma
[B]; class labels) -> (denoised image, like x; the v of a `Predictor`, or None). Networks that compare equal
compute the same function."""


@dataclass(frozen=True)
class OfDenoiser:
    """The `Network` of a denoiser, which reads x alone."""

    denoiser: Denoiser

    def __call__(
        self, state: tuple[Tensor, ...], sigma: Tensor, class_labels: Tensor | None
    ) -> tuple[Tensor, None]:
        (x,) = state
        return self.denoiser(x, sigma, class_labels).double(), None


@dataclass(frozen=True)
class OfPredictor:
    """The `Network` of a predictor, which reads (x, y, time [B])."""

    predictor: Predictor

    def __call__(
        self, state: tuple[Tensor, ...], sigma: Tensor, class_labels: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        x, y, time = state
        epsilon, v = self.predictor(y.float(), time.float(), class_labels)
        return x - per_sample(sigma, x) * epsilon.double(), v


class Place(NamedTuple):
    """The position of a sampler at an evaluation: the fields of a `Point` without its images."""

    sigma: Tensor
    class_labels: Tensor | None
    step: int | Tensor
    order: int
    sigma_bounds: Bounds
    step_sigma: Tensor | None = None
    step_bounds: Bounds | None = None

    def point(self, x: Tensor, denoised: Tensor) -> Point:
        """The point at which guidance is evaluated."""
        return Point(
            x,
            self.sigma,
            self.class_labels,
            self.step,
            self.order,
            self.sigma_bounds,
            denoised=denoised,
            step_sigma=self.step_sigma,
            step_bounds=self.step_bounds,
        )


Evaluate = Callable[[Network, tuple[Tensor, ...], Sequence[Guide], Place], tuple[Advice, Tensor | None]]
"""(network, its state, guidance, place) -> (advice of all entries on the network's image, v)."""


class Guides(tuple[Guide, ...]):
    """The entries of a sampler's guidance, and the function `how` that evaluates them and the score
    network."""

    how: Evaluate

    def __new__(cls, entries: Iterable[Guide], how: Evaluate) -> Self:
        guides = super().__new__(cls, entries)
        guides.how = how
        return guides


def eagerly(
    network: Network, state: tuple[Tensor, ...], guidance: Sequence[Guide], place: Place
) -> tuple[Advice, Tensor | None]:
    """Evaluate operation by operation."""
    denoised, v = network(state, place.sigma, place.class_labels)
    return guide(guidance, place.point(state[0], denoised)), v


def evaluate(
    network: Network, state: tuple[Tensor, ...], guidance: Sequence[Guide], place: Place
) -> tuple[Advice, Tensor | None]:
    """Evaluate by `guidance.how` if `guidance` is a `Guides`, otherwise by `eagerly`."""
    how = guidance.how if isinstance(guidance, Guides) else eagerly
    return how(network, state, guidance, place)
