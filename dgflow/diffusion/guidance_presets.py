"""The published guidance settings as what recipes list under `guidance`: Kim et al.

2023, the numbers of `dgflow.diffusion.presets`.
"""

from __future__ import annotations

from collections.abc import Mapping

from dgflow.diffusion.guidance_specs import (
    Boost,
    ClassifierFree,
    ClassifierGuidance,
    DiscriminatorGuidance,
    Guidance,
    Scale,
    Switch,
)
from dgflow.diffusion.presets import ADM_GPP, DIT_GPP, EDM_GPP, Pair
from dgflow.specs.step import Weights


def edm_gpp(row: str, discriminator: Weights) -> tuple[Guidance, ...]:
    """EDM-G++ for `Heun`: "cifar10-uncond" (FID 1.77), "cifar10-cond" (1.64), "ffhq-64" (1.98), or with
    "-plain" without the boost.

    Raises ValueError for another row.
    """
    preset = EDM_GPP[_known(row, EDM_GPP)]
    return (
        DiscriminatorGuidance(
            discriminator=discriminator,
            weight=preset.weight,
            second_order_weight=preset.second_order_weight,
            tau_min=preset.tau_min,
            boost=Boost() if preset.boost else None,
        ),
    )


def adm_gpp(row: str, classifier: Weights, discriminator: Weights) -> tuple[Guidance, ...]:
    """ADM-G++ on ImageNet 256, for `DDPM(respacing="250")`, by published FID: "3.18" (the best), "3.73",
    "4.66", "4.45".

    Raises ValueError for another row.
    """
    preset = ADM_GPP[_known(row, ADM_GPP)]
    at = preset.switch_timestep
    return (
        ClassifierGuidance(
            classifier=classifier,
            weight=_scale(preset.classifier_weight, at),
            entropy_scaling=preset.entropy_scaling,
        ),
        DiscriminatorGuidance(
            discriminator=discriminator,
            weight=_scale(preset.discriminator_weight, at),
            after_timestep=preset.discriminator_after,
            boost=Boost(weight=_scale(preset.boost, at), S_churn=0.0),
            match_preceding_norm=preset.match_preceding_norm,
        ),
    )


def dit_gpp(discriminator: Weights) -> tuple[Guidance, ...]:
    """DiT-XL/2-G++ on ImageNet 256, for `DDPM(respacing="250")`: FID 1.83."""
    preset = DIT_GPP
    return (
        ClassifierFree(
            scale=_scale(preset.classifier_free_scale, preset.switch_timestep), channels=preset.channels
        ),
        DiscriminatorGuidance(
            discriminator=discriminator,
            weight=preset.discriminator_weight,
            after_timestep=preset.discriminator_after,
        ),
    )


def _scale(pair: Pair, timestep: int) -> Scale:
    above, below = pair
    return above if above == below else Switch(above=above, below=below, timestep=timestep)


def _known(row: str, rows: Mapping[str, object]) -> str:
    names = list(rows)
    if row not in names:
        raise ValueError(f"expected one of the published rows {', '.join(names)}, found {row!r}")
    return row
