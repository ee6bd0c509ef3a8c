"""The frozen score network against which a discriminator is trained or measured; it denoises noisy real
images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dgflow.diffusion.acceleration import autocast, prepared
from dgflow.diffusion.gain import Noisy, denoised
from dgflow.diffusion.score_model import ScoreModel
from dgflow.networks.families import score_network
from dgflow.specs.spec import ActivationPrecision
from dgflow.specs.step import Weights
from dgflow.steps.guides import without_network


@dataclass
class FrozenScore:
    """The score network of `weights`, loaded at its first evaluation and released by `release`.

    Args:
        load: loads the network.
        conditional: the discriminator receives the labels.
        name: name of the training, for messages.
    """

    weights: Weights
    load: Callable[[], nn.Module]
    conditional: bool
    precision: ActivationPrecision
    device: torch.device
    name: str
    _model: ScoreModel | None = None

    def trained_range(self, sigma_min: float, sigma_max: float, *, use: str) -> tuple[float, float]:
        """Returns the part of the range [sigma_min, sigma_max] that the network was trained for. Loads
        nothing.

        Raises ValueError, naming the `use` of the levels, if that part is empty.
        """
        low, high = without_network(self.weights).narrowed(sigma_min, sigma_max)
        if not 0 < low < high:
            raise ValueError(
                f"{self.name}: expected noise levels between sigma_min {sigma_min:g} and sigma_max "
                f"{sigma_max:g} that the score network was trained for, {use}, found none: its range is "
                f"{low:g} to {high:g}"
            )
        return low, high

    def rounded(self, sigma_B: Tensor) -> Tensor:
        """Rounds to the nearest levels of the network."""
        rounding = self._loaded().round_sigma
        return sigma_B if rounding is None else rounding(sigma_B.to(self.device)).to(sigma_B.device)

    def denoised(self, images: Tensor, labels: Tensor, sigma_B: Tensor, normals: Tensor) -> Noisy:
        """Adds unit normals at levels sigma (float64) to images [b, ...] and denoises them with the
        network.

        Raises ValueError for labels outside the network's classes.
        """
        model, classes = self._loaded(), self.weights.step.classes
        if classes and not ((labels >= 0) & (labels < classes)).all():
            raise ValueError(
                f"{self.name}: expected labels 0 to {classes - 1}, the classes of the score network, "
                f"found {int(labels.min())} to {int(labels.max())}"
            )
        with autocast(self.device, self.precision):
            return denoised(
                model.denoiser,
                images,
                sigma_B,
                normals,
                labels if classes else None,
                labels if self.conditional else None,
            )

    def release(self) -> None:
        """Releases the network."""
        self._model = None

    def _loaded(self) -> ScoreModel:
        if self._model is None:
            model = score_network(self.weights).score_model(prepared(self.load(), device=self.device))
            self._model = model if self.weights.step.classes else model.without_labels()
        return self._model
