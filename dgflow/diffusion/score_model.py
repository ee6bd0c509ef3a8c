"""One seam for every backbone: a denoiser for the ODE samplers, a noise predictor on its own schedule for the
ancestral ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dgflow.diffusion.classifier_free import ClassifierFreePredictor
from dgflow.diffusion.denoisers import VPDenoiser, predictor_of
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.guidance_settings import ClassifierFree, Switch
from dgflow.diffusion.samplers import Denoiser, Predictor, RoundSigma
from dgflow.diffusion.times import integrated_beta

ROUNDING = 1e-6
"""Relative error that a schedule computed in float32 may have at its ends."""

VP_STEPS = 1000
VP_SCHEDULE = DiscreteSchedule(
    tuple(
        -math.expm1(integrated_beta(i / VP_STEPS) - integrated_beta((i + 1) / VP_STEPS))
        for i in range(VP_STEPS)
    ),
    tuple(range(VP_STEPS)),
)
"""Linear VP at 1,000 equal steps of time, from sigma = 152.17, for networks that know no discrete schedule.
DDPM's own is close to it (half a step at the clean end) but begins at 157.4, beyond the range of networks of
continuous time."""


@dataclass(frozen=True)
class ScoreModel:
    """A score network in the forms that samplers call.

    Args:
        denoiser: in the EDM convention.
        predictor, schedule: the network itself and its schedule, if that is a discrete one (ADM, DiT).
        null_label: the "no class" label of a network that has one.
        round_sigma: the nearest noise levels that the network knows; None if it knows all of its range.
        sigma_range: the noise levels that it was made for.
        tau_edges: linear-VP times at which the denoiser jumps.
        latent: samples are latents, which have no bounds, and not images in [-1, 1].
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
        """The part of [sigma_min, sigma_max] that the network was made for."""
        return max(sigma_min, self.sigma_range[0]), min(sigma_max, self.sigma_range[1])

    def check_sigmas(self, sigmas: Sequence[float]) -> None:
        """Raise ValueError for noise levels that the network was not made for, rounding apart. Churn may pass
        the upper end, as published."""
        low, high = self.sigma_range
        i = first_outside(sigmas, low, high)
        if i is not None:
            raise ValueError(
                f"expected noise levels sigma between {low:.6g} and {high:.6g}, the range of this score "
                f"network, found {sigmas[i]:.6g}: "
                "change the sampler's sigma_min and sigma_max (tau_min and tau_max of RK45), or the sampler"
            )

    def discrete(self, respacing: str) -> tuple[Predictor, DiscreteSchedule]:
        """The network on its own schedule, or on `VP_SCHEDULE` if it has none, respaced.

        Raises ValueError if the network was not made for that schedule's noise levels.
        """
        if self.predictor is not None and self.schedule is not None:
            return self.predictor, self.schedule.respaced(respacing)
        schedule = VP_SCHEDULE.respaced(respacing)
        self.check_sigmas(schedule.sigmas)
        return predictor_of(self.denoiser, schedule), schedule

    def classifier_free(self, settings: ClassifierFree) -> ScoreModel:
        """The same under classifier-free guidance; a `Switch` of the scale is in the schedule's steps.

        Raises ValueError for a network without a null class.
        """
        if self.predictor is None or self.schedule is None or self.null_label is None:
            raise ValueError(
                "classifier-free guidance needs a network with a null class (DiT): take it out of this "
                "recipe's guidance"
            )
        predictor = ClassifierFreePredictor(self.predictor, self.null_label, settings)
        denoiser = VPDenoiser(predictor, self.schedule.timesteps_from_sigma())
        scale = settings.scale
        edges = (self.schedule.tau_after(scale.timestep),) if isinstance(scale, Switch) else ()
        return replace(self, denoiser=denoiser, predictor=predictor, tau_edges=edges)

    def without_labels(self) -> ScoreModel:
        """The same for a network without classes whose guides have some: labels do not reach the network."""
        denoiser, predictor = self.denoiser, self.predictor
        alone = None if predictor is None else lambda y, time, _: predictor(y, time, None)
        return replace(self, denoiser=lambda x, sigma, _: denoiser(x, sigma, None), predictor=alone)


def first_outside(sigmas: Sequence[float], sigma_min: float, sigma_max: float) -> int | None:
    """Position of the first noise level outside [sigma_min, sigma_max], float32 rounding apart, or not finite
    and above 0; None if all are inside."""
    low, high = sigma_min * (1 - ROUNDING), sigma_max * (1 + ROUNDING)
    return next(
        (i for i, sigma in enumerate(sigmas) if not (low <= sigma <= high and 0 < sigma < math.inf)), None
    )
