"""Numeric settings of guidance, without networks. Recipes add the networks (`guidance_specs`); terms and
predictors read the settings. Does not import torch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dgflow.specs.spec import Spec

TAU_MIN = 0.01
"""Default lower end of a discriminator's window: sigma = 0.0447."""

TIMESTEP_ERROR = 0.01
"""Tolerance for t / 1000 as an approximation of `_tau_after(t)`; the largest difference is 0.005."""

Number = Annotated[float, Field(allow_inf_nan=False)]


class Switch(Spec):
    """A number that changes once during sampling: `above` at DDPM timesteps greater than `timestep` (of
    0..999, linear schedule), otherwise `below`.
    """

    above: Number
    below: Number
    timestep: int = Field(ge=0, lt=999)

    @property
    def tau(self) -> float:
        """Linear-VP time of the change, for terms; noise predictors compare their timestep."""
        return _tau_after(self.timestep)


Scale = Number | Switch
Combine = Literal["logits", "probabilities"]
"""The combination of several discriminators into one log-ratio: the mean log-ratio, or the log-ratio of the
mean probability (`dgflow.diffusion.ensembles`).
"""


class Boost(Spec):
    """The published adaptive boost for samples that look fake, log_ratio < 0 (EDM-G++, Kim et al. 2023).

    In every step whose number (from 0) is a multiple of `period`, `weight` multiplies their first-order
    gradient. In every step whose number is a multiple of `churn_period`, `S_churn` and `S_noise` replace the
    sampler's settings for samples that looked fake in the previous step; samplers without churn ignore this.
    The paper says "every odd step" for both, counted from 1; the defaults are the published code's.
    """

    period: int = Field(default=2, ge=1)
    weight: Scale = 2.0
    churn_period: int = Field(default=5, ge=1)
    S_churn: float = Field(default=4.0, ge=0)
    S_noise: float = Field(default=1.0, ge=0)


class _Windowed(Spec, ABC):
    """Weight and window of a gradient."""

    weight: Scale = 1.0
    tau_max: float = Field(default=1.0, ge=0, le=1)

    @abstractmethod
    def _first_tau(self) -> float: ...

    @property
    def window(self) -> tuple[float, float]:
        """Lowest and highest linear-VP time at which the term acts.

        A `tau_max` of 1 means no upper end, as discrete schedules begin slightly above 1 (ADM's at 1.003).
        Raises ValueError if the lower end is above `tau_max`.
        """
        low = self._first_tau()
        _check_order(low, self.tau_max)
        return low, self.tau_max if self.tau_max < 1.0 else math.inf


class DiscriminatorOptions(Spec):
    """Settings of a discriminator's guidance other than weight and window; see `DiscriminatorSettings`."""

    after_timestep: int | None = Field(default=None, ge=0, lt=996)  # from 996 on there is no linear-VP time
    boost: Boost | None = None
    match_preceding_norm: bool = False
    saturate: bool = False


class DiscriminatorSettings(_Windowed, DiscriminatorOptions):
    """Settings that add the gradient of a discriminator's log-ratio to the score for `tau_min` <= tau <=
    `tau_max` (linear-VP time).

    `weight` acts in the predictor of Heun's step, `second_order_weight` in its corrector. With an exact
    ratio, (1, 1) is correct; (2, 0), the published choice for CIFAR-10, has about the same effect at half the
    cost. `match_preceding_norm` scales the gradient to the norm of the sum of the preceding terms' gradients,
    per sample, before the weight (ADM-G++'s "Scaling"). `after_timestep` replaces `tau_min` (default
    `TAU_MIN`): act at DDPM timesteps (of 0..999, linear schedule) greater than this one. `saturate`
    reproduces the published sigmoid and clip, which give no gradient to the samples that look most fake; for
    several discriminators, the combined probability is clipped.
    """

    second_order_weight: Scale = 0.0
    tau_min: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _one_window(self) -> Self:
        check_window(self.tau_min, self.tau_max, self.after_timestep)
        return self

    def _first_tau(self) -> float:
        if self.after_timestep is not None:
            return _tau_after(self.after_timestep)
        return TAU_MIN if self.tau_min is None else self.tau_min


class ClassifierSettings(_Windowed):
    """Settings that add the gradient of a noisy classifier's log-probability of the sample's class (Dhariwal
    & Nichol 2021, equation 10).

    `entropy_scaling` divides the weight by the normalised entropy of the classifier's output (EDS of ED-DPM,
    Li et al. 2022), bounded below by `entropy_floor` nats; a floor of 0 is the published form, infinite for a
    certain classifier.
    """

    tau_min: float = Field(default=0.0, ge=0, le=1)
    entropy_scaling: bool = False
    entropy_floor: Number = Field(default=1e-4, ge=0)

    @model_validator(mode="after")
    def _falls(self) -> Self:
        _ = self.window
        return self

    def _first_tau(self) -> float:
        return self.tau_min


class ClassifierFree(Spec):
    """Classifier-free guidance (Ho & Salimans 2022) on the first `channels` channels; None for all. DiT
    publishes 3, on four-channel latents.
    """

    scale: Scale = 1.5
    channels: int | None = Field(default=3, gt=0)


def _tau_after(timestep: int) -> float:
    from dgflow.diffusion.discrete import DDPM_LINEAR

    return DDPM_LINEAR.tau_after(timestep)


def check_window(tau_min: float | None, tau_max: float, after_timestep: int | None) -> None:
    """Raise ValueError for impossible ends of a discriminator's window."""
    if tau_min is not None and after_timestep is not None:
        raise ValueError(f"expected tau_min or after_timestep, found both: {tau_min} and {after_timestep}")
    if after_timestep is None:
        _check_order(TAU_MIN if tau_min is None else tau_min, tau_max)
    elif after_timestep / 1000 - TIMESTEP_ERROR > tau_max:
        # The exact time of a timestep needs torch, which planning does not load.
        raise ValueError(
            f"expected after_timestep below tau_max (timestep t is about t / 1000), found "
            f"{after_timestep} and {tau_max}: the term would never act"
        )


def _check_order(low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"expected tau_min <= tau_max, found {low} and {high}")
