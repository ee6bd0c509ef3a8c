"""The published guidance settings of Kim et al. 2023 (Discriminator Guidance), with their FIDs, as entries
for a recipe's `guidance`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypedDict, Unpack

from dgflow.diffusion.guidance_settings import (
    TAU_MIN,
    Boost,
    ClassifierFree,
    ClassifierSettings,
    Combine,
    DiscriminatorSettings,
    Scale,
    Switch,
)
from dgflow.diffusion.guidance_specs import ClassifierGuidance, DiscriminatorGuidance, FromGain, Guidance
from dgflow.specs.mistakes import did_you_mean
from dgflow.specs.step import Result, Weights

Discriminators = Weights | tuple[Weights, ...]
"""One discriminator, or the members of an ensemble; see `DiscriminatorGuidance`."""

Pair = tuple[float, float]
"""(value at timesteps greater than the switch, value at the switch and below); timesteps of the linear
schedule of 1000 steps, 0 the cleanest.
"""


class Changes(TypedDict, total=False):
    """Settings that replace the published ones of a discriminator's guidance; None keeps the published one.

    `tau_min` replaces a published `after_timestep`, and vice versa.
    """

    weight: Scale | FromGain | Result | None
    second_order_weight: Scale | FromGain | None
    tau_min: float | FromGain | None
    tau_max: float | FromGain | None
    after_timestep: int | None
    boost: Boost | None
    combine: Combine | None  # combination of several discriminators


@dataclass(frozen=True)
class EDMRow:
    """EDM-G++ with Heun's sampler; the baseline is EDM without guidance. With `cosine_time`, the classifier
    that gives the discriminator's features, of 64 pixels, takes cosine time.
    """

    discriminator: DiscriminatorSettings
    num_steps: int
    published_fid: float
    baseline_fid: float
    cosine_time: bool = False


@dataclass(frozen=True)
class ADMRow:
    """ADM-G++ on ImageNet 256 with a DDPM; the classifier is listed first."""

    classifier: ClassifierSettings
    discriminator: DiscriminatorSettings
    published_fid: float
    num_steps: int = 250


@dataclass(frozen=True)
class DiTRow:
    """DiT-XL/2-G++ on ImageNet 256 with a DDPM; the baseline is classifier-free guidance of scale 1.5."""

    classifier_free: ClassifierFree
    discriminator: DiscriminatorSettings
    published_fid: float
    baseline_fid: float
    num_steps: int = 250


def _edm(weight: float, *, boost: bool) -> DiscriminatorSettings:
    return DiscriminatorSettings(weight=weight, tau_min=TAU_MIN, boost=Boost() if boost else None)


def _adm(*, classifier: Pair, fake: Pair, switch: int, published_fid: float) -> ADMRow:
    """A row. `classifier`: the classifier's weights before entropy scaling. `fake`: the discriminator's
    weights for samples with log-ratio < 0 in even steps counted from 0 (the paper's odd steps, counted from
    1); the weight is 1 for other samples.
    """
    return ADMRow(
        ClassifierSettings(weight=_scale(classifier, switch), entropy_scaling=True),
        DiscriminatorSettings(
            weight=1.0,
            after_timestep=100,
            boost=Boost(weight=_scale(fake, switch), S_churn=0.0),
            match_preceding_norm=True,
        ),
        published_fid,
    )


def _scale(pair: Pair, timestep: int) -> Scale:
    return Switch(above=pair[0], below=pair[1], timestep=timestep)


EDM_GPP = MappingProxyType(
    {
        "cifar10-uncond": EDMRow(_edm(2.0, boost=False), 18, published_fid=1.77, baseline_fid=2.03),
        "cifar10-cond": EDMRow(_edm(1.0, boost=True), 18, published_fid=1.64, baseline_fid=1.82),
        "cifar10-cond-plain": EDMRow(_edm(1.0, boost=False), 18, published_fid=1.66, baseline_fid=1.82),
        "ffhq-64": EDMRow(_edm(1.0, boost=True), 36, 1.98, baseline_fid=2.39, cosine_time=True),
        "ffhq-64-plain": EDMRow(_edm(1.0, boost=False), 36, 2.04, baseline_fid=2.39, cosine_time=True),
    }
)
"""Table 2 of the paper; `-plain` is the same without the boost."""

ADM_GPP = MappingProxyType(
    {
        "3.18": _adm(classifier=(0.75, 1.5), fake=(1.0, 0.75), switch=650, published_fid=3.18),
        "3.73": _adm(classifier=(0.25, 1.5), fake=(3.0, 0.75), switch=650, published_fid=3.73),
        "4.66": _adm(classifier=(0.25, 1.5), fake=(3.0, 0.75), switch=600, published_fid=4.66),
        "4.45": _adm(classifier=(0.1, 2.0), fake=(5.0, 0.5), switch=600, published_fid=4.45),
    }
)
"""Rows by published FID. No code was released. Which number applies above a switch is inferred from the
changes of FID, IS and recall. Entropy scaling and norm matching are stated for the row 3.18 and assumed for
the others.
"""

DIT_GPP = DiTRow(
    ClassifierFree(scale=_scale((1.25, 3.0), 200), channels=3),
    DiscriminatorSettings(weight=1.0, after_timestep=100),
    published_fid=1.83,
    baseline_fid=2.27,
)


def edm_gpp(row: str, discriminator: Discriminators, **changes: Unpack[Changes]) -> tuple[Guidance, ...]:
    """EDM-G++ for `Heun`: "cifar10-uncond" (FID 1.77), "cifar10-cond" (1.64) or "ffhq-64" (1.98); "-plain" at
    the end omits the boost. `changes` replace settings of the discriminator's guidance.

    Raises ValueError for another row.
    """
    return (_guide(discriminator, EDM_GPP[known_row(row, EDM_GPP)].discriminator, changes),)


def adm_gpp(
    row: str, classifier: Weights, discriminator: Discriminators, **changes: Unpack[Changes]
) -> tuple[Guidance, ...]:
    """ADM-G++ on ImageNet 256, for `DDPM(respacing="250")`, by published FID: "3.18" (the best), "3.73",
    "4.66", "4.45". `changes` replace settings of the discriminator's guidance.

    Raises ValueError for another row.
    """
    preset = ADM_GPP[known_row(row, ADM_GPP)]
    return (
        ClassifierGuidance(classifier=classifier, **dict(preset.classifier)),
        _guide(discriminator, preset.discriminator, changes),
    )


def dit_gpp(discriminator: Discriminators, **changes: Unpack[Changes]) -> tuple[Guidance, ...]:
    """DiT-XL/2-G++ on ImageNet 256, for `DDPM(respacing="250")`: FID 1.83. `changes` replace settings of the
    discriminator's guidance."""
    return (DIT_GPP.classifier_free, _guide(discriminator, DIT_GPP.discriminator, changes))


def _guide(
    discriminator: Discriminators, published: DiscriminatorSettings, changes: Changes
) -> DiscriminatorGuidance:
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    settings = dict(published)
    if {"tau_min", "after_timestep"} & given.keys():
        settings |= {"tau_min": None, "after_timestep": None}
    return DiscriminatorGuidance(discriminator=discriminator, **(settings | given))


def known_row(row: str, rows: Mapping[str, object]) -> str:
    """Return `row`. Raises ValueError if it is not one of `rows`."""
    if row not in rows:
        near = did_you_mean(row, rows)
        raise ValueError(f"expected one of the published rows {', '.join(rows)}, found {row!r}{near}")
    return row
