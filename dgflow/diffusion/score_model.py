"""The common interface of all score networks: a denoiser for ODE samplers, and a noise predictor on its own
schedule for ancestral ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dgflow.diffusion.classifier_free import ClassifierFreePredictor
from dgflow.diffusion.denoisers import VPDenoiser, predictor_of
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.guidance_settings import ClassifierFree, Switch
from dgflow.diffusion.ranges import ROUNDING
from dgflow.diffusion.samplers import Denoiser, Predictor, RoundSigma, Start, rounded
from dgflow.diffusion.times import integrated_beta, tau_from_sigma

VP_STEPS = 1000
VP_SCHEDULE = DiscreteSchedule(
    tuple(
        -math.expm1(integrated_beta(i / VP_STEPS) - integrated_beta((i + 1) / VP_STEPS))
        for i in range(VP_STEPS)
    ),
    tuple(range(VP_STEPS)),
)
"""Linear VP at 1,000 equal steps of time, from sigma = 152.17, for networks without a discrete schedule.
DDPM's own schedule is close (it differs by half a step at the clean end) but begins at 157.4, beyond the
range of continuous-time networks.
"""


@dataclass(frozen=True)
class ScoreModel:
    """A score network in the forms that samplers call.

    Args:
        denoiser: in the EDM convention.
        predictor, schedule: the network and its schedule, if discrete (ADM, DiT).
        null_label: the "no class" label; None if there is none.
        round_sigma: rounds to the network's nearest noise levels; None if it supports all levels in its
            range.
        sigma_range: the network's range of noise levels.
        tau_edges: linear-VP times at which the denoiser jumps.
        latent: True if samples are latents, which are unbounded, rather than images in [-1, 1].
    """

    denoiser: Denoiser
    predictor: Predictor | None = None
    schedule: DiscreteSchedule | None = None
    null_label: int | None = None
    round_sigma: RoundSigma | None = None
    sigma_range: tuple[float, float] = (0.0, math.inf)
    tau_edges: tuple[float, ...] = ()
    latent: bool = False

    def narrowed(self, sigma_min: float, sigma_max: float) -> tuple[float, float]:
        """The part of [sigma_min, sigma_max] in the network's range."""
        return max(sigma_min, self.sigma_range[0]), min(sigma_max, self.sigma_range[1])

    def check_sigmas(self, sigmas: Sequence[float]) -> None:
        """Raise ValueError for noise levels outside the network's range, up to rounding. Churn may exceed the
        upper end, as published.
        """
        low, high = self.sigma_range
        i = first_outside(sigmas, low, high)
        if i is not None:
            raise ValueError(
                f"expected noise levels sigma between {low:.6g} and {high:.6g}, the range of this score "
                f"network, found {sigmas[i]:.6g}: "
                "change the sampler's sigma_min and sigma_max (tau_min and tau_max of RK45), or the sampler"
            )

    def levels_from(
        self, start: Start, sigmas: Callable[[float], Sequence[float]], span: tuple[float, float]
    ) -> tuple[float, ...]:
        """The decreasing noise levels of a run that begins at `start`, rounded for this network, except for a
        last level of 0.

        Args:
            sigmas: highest level -> the sampler's levels from there down.
            span: (lowest, highest) level of a full run.

        Raises ValueError for a start outside (lowest, highest].
        """
        low, high = span
        if not low < start.sigma <= high * (1 + ROUNDING):
            raise ValueError(
                f"expected a start at a noise level above {low:.6g} and at most {high:.6g}, the range of the "
                f"sampler's steps, found {start.sigma:.6g} (linear-VP time "
                f"{tau_from_sigma(start.sigma):.4g}): start at another time, or change the sampler's "
                "sigma_min and sigma_max"
            )
        whole = start.grid == "whole"
        behind = sigmas(start.sigma)[1:] if whole else sigmas(high)
        first, *levels = rounded((start.sigma, *behind), self.round_sigma, start.images.device)
        return first, *(level for level in levels if whole or level < first * (1 - ROUNDING))

    def discrete(self, respacing: str, start: Start | None = None) -> tuple[Predictor, DiscreteSchedule]:
        """The predictor and its schedule, or `VP_SCHEDULE` for a network without a schedule, respaced. With a
        start, the schedule is the part at or below the start's noise level.

        Raises ValueError if the schedule's noise levels are outside the network's range.
        """
        schedule = VP_SCHEDULE if self.predictor is None or self.schedule is None else self.schedule
        if start is None:
            schedule = schedule.respaced(respacing)
        else:
            schedule = schedule.respaced_below(start.sigma, respacing, start.grid)
        if self.predictor is not None and self.schedule is not None:
            return self.predictor, schedule
        self.check_sigmas(schedule.sigmas)
        return predictor_of(self.denoiser, schedule), schedule

    def classifier_free(self, settings: ClassifierFree) -> ScoreModel:
        """The model with classifier-free guidance; a `Switch` of the scale refers to the schedule's steps.

        Raises ValueError for a network without a null class.
        """
        if self.predictor is None or self.schedule is None or self.null_label is None:
            raise ValueError(
                "classifier-free guidance needs a network with a null class (DiT), found one without: remove "
                "ClassifierFree from the guidance"
            )
        predictor = ClassifierFreePredictor(self.predictor, self.null_label, settings)
        denoiser = VPDenoiser(predictor, self.schedule.timesteps_from_sigma())
        scale = settings.scale
        edges = (self.schedule.tau_after(scale.timestep),) if isinstance(scale, Switch) else ()
        return replace(self, denoiser=denoiser, predictor=predictor, tau_edges=edges)

    def of_null_class(self) -> ScoreModel:
        """The model with the null class in place of every label.

        Raises ValueError for a network without a null class.
        """
        denoiser, null = self.denoiser, self.null_label
        if null is None:
            raise ValueError("expected a network with a null class (DiT), found one without")

        def unconditional(x: Tensor, sigma: Tensor, _: Tensor | None) -> Tensor:
            return denoiser(x, sigma, torch.full((len(x),), null, device=x.device))

        return replace(self, denoiser=unconditional, predictor=None)

    def without_labels(self) -> ScoreModel:
        """The model without labels, for a network without classes whose guides have classes."""
        denoiser, predictor = self.denoiser, self.predictor
        alone = None if predictor is None else lambda y, time, _: predictor(y, time, None)
        return replace(self, denoiser=lambda x, sigma, _: denoiser(x, sigma, None), predictor=alone)


def first_outside(sigmas: Sequence[float], sigma_min: float, sigma_max: float) -> int | None:
    """Position of the first noise level that is outside [sigma_min, sigma_max], up to float32 rounding, or
    not finite and positive; None if all are valid.
    """
    low, high = sigma_min * (1 - ROUNDING), sigma_max * (1 + ROUNDING)
    return next(
        (i for i, sigma in enumerate(sigmas) if not (low <= sigma <= high and 0 < sigma < math.inf)), None
    )
