"""Numeric settings of corrections of the denoised image, without networks. Recipes list `correction_specs`;
corrections read these settings. Does not import torch.
"""

from __future__ import annotations

import math
from typing import Self

from pydantic import Field, model_validator

from dgflow.diffusion.guidance_settings import Number
from dgflow.specs.spec import Spec


class NetworkSettings(Spec):
    """Settings of extrapolation from another network's denoised image to the score network's: D_other +
    weight * (D - D_other).

    Weight 1 gives the score network's image, 0 the other network's; a weight above 1 extrapolates beyond the
    score network's. The extrapolation acts in steps that begin at a noise level from `sigma_min` to
    `sigma_max`, inclusive. With `sigma_max` None there is no upper end.
    """

    weight: Number
    sigma_min: float = Field(default=0.0, ge=0)
    sigma_max: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.sigma_max is not None and self.sigma_min > self.sigma_max:
            raise ValueError(
                f"expected sigma_min <= sigma_max, found {self.sigma_min} and {self.sigma_max}: no step "
                "would be guided"
            )
        return self

    @property
    def levels(self) -> tuple[float, float]:
        """The lowest and highest noise level at which the correction acts; (inf, 0), an empty range, at
        weight 1.
        """
        if self.weight == 1.0:
            return math.inf, 0.0
        return self.sigma_min, math.inf if self.sigma_max is None else self.sigma_max


class ScalingSettings(Spec):
    """Settings of epsilon scaling (Ning et al. 2023): x - (x - D) / divisor, with divisor = `factor` +
    `slope` * tau, where tau is the linear-VP time (about timestep / 1000).

    A divisor slightly above 1 compensates for the drift of a sampler on its own errors (exposure bias).
    `twice` reproduces the published code (ADM-ES): in DDIM steps guided by a gradient, the guided noise is
    divided again. It has no effect with other samplers.
    """

    factor: Number = Field(gt=0)
    slope: Number = 0.0
    twice: bool = False

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.factor + self.slope <= 0:
            raise ValueError(
                f"expected a divisor above 0 up to linear-VP time 1, factor + slope, found {self.factor} + "
                f"{self.slope}"
            )
        return self
