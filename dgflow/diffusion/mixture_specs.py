"""Specs of Gaussian mixtures, for recipes: distributions with a closed-form noisy density, score and
denoiser. `mixtures` computes with them. Does not import torch.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, model_validator

from dgflow.specs.spec import Spec

ROUNDING = 1e-6
"""Largest difference of a sum of weights from 1 that counts as rounding."""

Coordinate = Annotated[float, Field(allow_inf_nan=False)]


class GaussianMixture(Spec):
    """A mixture of isotropic Gaussians in any number of dimensions.

    `means` has the coordinates of each component's centre, `stds` its standard deviation in each coordinate,
    `weights` its share; the shares sum to 1.
    """

    means: tuple[tuple[Coordinate, ...], ...]
    stds: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]
    weights: tuple[Annotated[float, Field(gt=0)], ...]

    @model_validator(mode="after")
    def _fits(self) -> GaussianMixture:
        counts = len(self.means), len(self.stds), len(self.weights)
        if len(set(counts)) > 1 or not self.means:
            raise ValueError(
                "expected equal numbers of means, stds and weights, one or more of each, found "
                f"{counts[0]}, {counts[1]} and {counts[2]}"
            )
        widths = sorted({len(mean) for mean in self.means})
        if len(widths) > 1 or widths[0] == 0:
            raise ValueError(f"expected means with the same number of coordinates, found {widths}")
        if abs(math.fsum(self.weights) - 1.0) > ROUNDING:
            raise ValueError(f"expected weights that sum to 1, found a sum of {math.fsum(self.weights):.6g}")
        return self

    @property
    def dimensions(self) -> int:
        """The number of coordinates of a point."""
        return len(self.means[0])
