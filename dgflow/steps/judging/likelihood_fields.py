"""The fields of a `Likelihood`: networks, images, noise levels, and the methods of measurement."""

from __future__ import annotations

from abc import ABC
from typing import Literal

from pydantic import Field

from dgflow.specs.spec import BatchSize
from dgflow.steps.guided_arms import GuidedArms

Method = Literal["nll", "nelbo"]


class LikelihoodFields(GuidedArms, ABC):
    """The fields of `Likelihood`.

    Args:
        arms: guidance by name; () is the score network alone. The others are compared with the first arm,
            image by image.
        sigma_min, sigma_max: the ends of the ODE; None: 0.002 and 80, narrowed to the network's own range.
            The numbers at `sigma_min` are those of the table.
        truncations: further noise levels, ascending, at which the ODE begins.
        methods: the quantities to measure.
        divergence: Hutchinson's estimator with one vector of signs per image and repeat, or "exact", with as
            many gradients per evaluation as there are dimensions.
        dequantise: False for samples that are not pixels: x is the sample itself, the constant is 0.
        repeats: draws of u, z and signs per image; their mean counts as one value.
        times: noise levels per image, repeat and truncation that `nelbo` is averaged over.
        tolerance: of the ODE's steps, relative and absolute.
    """

    sigma_min: float | None = Field(default=None, gt=0)
    sigma_max: float | None = Field(default=None, gt=0)
    truncations: tuple[float, ...] = ()
    methods: tuple[Method, ...] = Field(default=("nll", "nelbo"), min_length=1)
    divergence: Literal["hutchinson", "exact"] = "hutchinson"
    dequantise: bool = True
    noised: bool = True
    repeats: int = Field(default=1, gt=0)
    times: int = Field(default=32, gt=0)
    tolerance: float = Field(default=1e-5, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**63)
    batch_size: BatchSize = 64
