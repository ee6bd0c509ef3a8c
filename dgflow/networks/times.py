"""Map a noise level to the time input of noisy classifiers and discriminators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dgflow.diffusion.times import TimeMap

TimeName = Literal["linear-vp", "cosine-vp", "ddpm-linear", "ddpm-cosine"]
"""The time input of a network: in [0, 1] on the linear or the cosine schedule, or the step 0..999 of a DDPM
schedule.
"""

ProcessName = Literal["linear-vp", "edm"]
"""The sample and time that a discriminator receives: y = x / sqrt(1 + sigma^2) and its linear-VP time, or x =
x0 + sigma z itself and EDM's log(sigma) / 4.
"""

NoiseName = Literal["linear_vp", "none"]
"""The noise of a network's training samples: of the linear-VP diffusion, or none."""


def time_map(name: TimeName) -> TimeMap:
    """The map from noise levels sigma to the time input `name`."""
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
    """The factor from the time input `name` to the embedded step 0..999."""
    return 1.0 if name.startswith("ddpm") else 999.0
