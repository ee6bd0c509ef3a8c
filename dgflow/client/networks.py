"""Loaded networks of a root: score networks that denoise, and discriminators that give log-ratios."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dgflow.client.samples import as_network_input
from dgflow.diffusion.guidance_settings import DiscriminatorSettings, Switch
from dgflow.diffusion.guidance_specs import DiscriminatorGuidance
from dgflow.engine.recorded import RecordedRoot
from dgflow.networks.roles import DiscriminatorSpec
from dgflow.specs.bound import Bound, BoundWeights
from dgflow.specs.step import NetworkStep, Weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
    from dgflow.diffusion.score_model import ScoreModel


@dataclass(frozen=True, repr=False)
class Network:
    """The weights of one epoch of a training, or of a file, with their network.

    `weights` is the reference for recipes and guidance; `bound` holds the committed part.
    """

    records: RecordedRoot
    weights: Weights
    bound: BoundWeights

    @property
    def step(self) -> NetworkStep:
        return self.weights.step

    @property
    def spec(self) -> Any:
        """The spec of the whole network, as in a recipe."""
        return self.step.architecture

    @property
    def epoch(self) -> int | None:
        """The epoch of a training; None for the weights of a file."""
        return self.bound.receipt.number if self.bound.receipt.part.startswith("epochs/") else None

    @cached_property
    def network(self) -> nn.Module:
        """The module in evaluation mode, frozen, in float32, on the device of the samplers: the first GPU, or
        the CPU if there is none.

        Raises:
            CorruptObject: the file differs from the committed one.
        """
        from dgflow.diffusion.acceleration import device

        return Bound({"network": self.bound}).network("network").to(device())

    def _labels(self, labels: Any, rows: int) -> Tensor | None:
        """Convert to class labels int64 [rows] on the network's device; None for a network without
        classes.
        """
        import torch

        if self.step.classes == 0:
            return None
        if labels is None:
            raise ValueError(
                f"expected labels, one class of {self.step.classes} per sample, for {self.weights.title}, "
                "found None"
            )
        classes = torch.as_tensor(labels)
        if classes.is_floating_point() or classes.dtype == torch.bool:
            raise ValueError(f"expected labels as integers, found {classes.dtype}")
        per_row = _per_row(classes.to(torch.int64), rows, "labels")
        if not 0 <= int(per_row.min()) <= int(per_row.max()) < self.step.classes:
            raise ValueError(
                f"expected labels from 0 to {self.step.classes - 1} for {self.weights.title}, found "
                f"{int(per_row.min())} to {int(per_row.max())}"
            )
        return per_row.to(self._device)

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def _x(self, x: Tensor | np.ndarray) -> Tensor:
        """Convert samples for the network; images uint8 [n, H, W, C] become float32 [n, C, H, W] in [-1,
        1].
        """
        import torch

        if not isinstance(x, torch.Tensor):
            x = np.asarray(x)
            x = as_network_input(x) if x.dtype == np.uint8 and x.ndim == 4 else torch.from_numpy(x)
        shape = self.step.shape
        sides = (shape.channels, shape.image_size, shape.image_size)
        if not x.is_floating_point() or tuple(x.shape[1:]) != sides or not len(x):
            raise ValueError(
                f"expected samples float [n, {', '.join(map(str, sides))}], or images uint8 [n, H, W, C] as "
                f"NumPy array, for {self.weights.title}, found {x.dtype} {list(x.shape)}"
            )
        return x.to(self._device)

    def _sigma(self, sigma: Any, rows: int, *, zero: bool) -> Tensor:
        """Convert to noise levels float64 [rows] on the network's device; `zero` allows 0."""
        import torch

        levels = _per_row(torch.as_tensor(sigma, dtype=torch.float64), rows, "sigma")
        if not bool(((levels >= 0 if zero else levels > 0) & levels.isfinite()).all()):
            raise ValueError(
                f"expected noise levels sigma {'of 0 or more' if zero else 'above 0'}, found {sigma}"
            )
        return levels.to(self._device)

    def __repr__(self) -> str:
        epoch = "" if self.epoch is None else f", epoch {self.epoch}"
        return f"<{type(self).__name__} {self.step.name}: {type(self.spec).__name__}{epoch}>"


def _per_row(values: Tensor, rows: int, name: str) -> Tensor:
    """Expand a number, or one number per sample, to [rows]. Raises ValueError for another shape."""
    if values.ndim > 1 or (values.ndim == 1 and len(values) != rows):
        raise ValueError(
            f"expected {name} as a number or [{rows}], one per sample, found shape {list(values.shape)}"
        )
    return values.expand(rows)


class ScoreNetwork(Network):
    """A score network of a root."""

    @cached_property
    def model(self) -> ScoreModel:
        """The functions by which samplers call the network."""
        return self.spec.score_model(self.network)

    def denoise(self, x: Tensor | np.ndarray, sigma: Any, labels: Any = None) -> Tensor:
        """The expected clean samples given noisy ones, D(x, sigma), float64 [n, C, H, W].

        Args:
            x: samples [n, C, H, W] with noise of standard deviation `sigma`: x = x0 + sigma z, with x0 in
                [-1, 1].
            sigma: noise level above 0, a number or [n].
            labels: classes, a number or [n]; required by a network with classes.
        """
        import torch

        x = self._x(x)
        with torch.no_grad():
            denoised = self.model.denoiser(
                x.double(), self._sigma(sigma, len(x), zero=False), self._labels(labels, len(x))
            )
        return denoised.double()


class DiscriminatorNetwork(Network):
    """A discriminator of a root."""

    def log_ratio(self, x: Tensor | np.ndarray, sigma: Any, labels: Any = None) -> Tensor:
        """The log of the density ratio real / generated at noise level `sigma`, float64 [n]; differentiable
        in `x`.

        Args:
            x: samples [n, C, H, W] with noise of standard deviation `sigma`, x = x0 + sigma z, x0 in [-1, 1];
                or images uint8 [n, H, W, C] without noise.
            sigma: noise level, a number or [n].
            labels: classes, a number or [n]; required by a discriminator with classes.
        """
        from dgflow.diffusion.discriminator_guidance import log_ratio_at

        assert isinstance(self.spec, DiscriminatorSpec)
        x, rows = self._x(x), len(x)
        classes = self._labels(labels, rows)
        return log_ratio_at(
            self.network, x.double(), self._sigma(sigma, rows, zero=True), classes, time=self.spec.time_map()
        ).double()

    def guidance(self, weight: Any = 1.0, **settings: Any) -> DiscriminatorGuidance:
        """Return this discriminator as guidance, for `sample` and recipes, with the `settings` of
        `DiscriminatorGuidance`.
        """
        return DiscriminatorGuidance(discriminator=self.weights, weight=weight, **settings)

    def term(self, weight: float | Switch = 1.0, **settings: Any) -> DiscriminatorTerm:
        """Return this discriminator as a gradient term, for the functions of `dgflow.diffusion` and for
        diffusers, with the `settings` of `DiscriminatorSettings`.
        """
        from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm

        chosen = DiscriminatorSettings(weight=weight, **settings)
        return DiscriminatorTerm(self.network, chosen, self.spec.time_map())
