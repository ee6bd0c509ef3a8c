"""The time that noisy classifiers and discriminators are given for a noise level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dgflow.diffusion.times import TimeMap

TimeName = Literal["linear-vp", "cosine-vp", "ddpm-linear", "ddpm-cosine"]
"""The time that a network is given for a noise level: in [0, 1] on the linear or the cosine schedule, or the
step 0..999 of a DDPM schedule."""

ProcessName = Literal["linear-vp", "edm"]
"""The sample and time that a discriminator gets: y = x / sqrt(1 + sigma^2) and its linear-VP time, or x = x0
+ sigma z itself and EDM's log(sigma) / 4."""

NoiseName = Literal["linear_vp", "none"]
"""The noise of the samples that a network is trained on: that of the linear VP diffusion, or none."""


def time_map(name: TimeName) -> TimeMap:
    """The function of sigma that `name` stands for."""
    from dgflow.diffusion.discrete import DiscreteSchedule
    from dgflow.diffusion.times import cosine_from_sigma, tau_from_sigma

    if name == "linear-vp":
        return tau_from_sigma
    return (
        cosine_from_sigma
        if name == "cosine-vp"
        else DiscreteSchedule.of(name.removeprefix("ddpm-")).timesteps_from_sigma()
    )


def time_scale(name: TimeName) -> float:
    """The factor from that time to the step 0..999 that networks embed."""
    return 1.0 if name.startswith("ddpm") else 999.0
