"""Published settings of particle resampling (Liu et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from dgflow.diffusion.edm_sampler_specs import Heun
from dgflow.diffusion.particle_specs import Particles
from dgflow.diffusion.presets import known_row
from dgflow.diffusion.ranges import EDM_RANGE, rho_levels
from dgflow.diffusion.restart_settings import RestartInterval
from dgflow.diffusion.restart_specs import Restart
from dgflow.specs.step import Weights


@dataclass(frozen=True)
class ParticleRow:
    """A sampler for the networks of EDM's release, and the positions of its resampling, see `Particles`."""

    sampler: Heun
    at: Literal["restarts"] | tuple[float, ...]


def _before(steps: Sequence[int], sampler: Heun) -> ParticleRow:
    """Resampling before the given steps of a sampler, counted from 0."""
    levels = rho_levels(sampler.steps, *EDM_RANGE, sampler.rho)
    return ParticleRow(sampler, tuple(levels[step] for step in steps))


_RESTARTS = tuple(
    RestartInterval(points=points, repeats=repeats, sigma_min=low, sigma_max=high)
    for points, repeats, low, high in (
        (3, 1, 19.35, 40.79),
        (4, 1, 1.09, 1.92),
        (4, 4, 0.59, 1.09),
        (4, 1, 0.30, 0.59),
        (4, 4, 0.06, 0.30),
    )
)
_CHURN = {"S_min": 0.05, "S_max": 50.0}

PARTICLE_ROWS = MappingProxyType(
    {
        "imagenet64-restart": ParticleRow(
            Restart(steps=18, restarts=_RESTARTS, S_min=0.01, S_max=1.0, S_noise=1.003, restart_gamma=0.05),
            "restarts",
        ),
        "imagenet64": _before((31, 35, 39, 43, 47, 51), Heun(steps=64, S_churn=10.0, **_CHURN)),
        "ffhq64": _before((15, 19, 23, 27), Heun(steps=32, S_churn=2.5, **_CHURN)),
    }
)
"""Rows by data set, and by sampler if it is not Heun's. FFHQ's range of churn is assumed to be ImageNet's."""


def particle_filter(row: str, discriminator: Weights, count: int = 4) -> tuple[Heun, Particles]:
    """A published sampler and its resampling, as the `sampler` and `selection` of a `Generate`:
    "imagenet64-restart", "imagenet64" or "ffhq64". The first is published with four particles.

    Raises ValueError for another row.
    """
    settings = PARTICLE_ROWS[known_row(row, PARTICLE_ROWS)]
    selection = Particles(
        discriminator=discriminator,
        count=count,
        share=1.0,
        at=settings.at,
        resampling="multinomial",
        keep="best",
    )
    return settings.sampler, selection
