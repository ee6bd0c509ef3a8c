"""Published settings of corrections with their FIDs, as entries for a recipe's `guidance`.

Second networks: Karras et al. 2024 ("EDM2", and "Guiding a Diffusion Model with a Bad Version of Itself"),
Kynkäänniemi et al. 2024, Zheng et al. 2025 ("DDO"). Epsilon scaling: Ning et al. 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from dgflow.diffusion.correction_settings import NetworkSettings, ScalingSettings
from dgflow.diffusion.correction_specs import EpsilonScaling, NetworkGuidance
from dgflow.diffusion.guidance_specs import Guidance
from dgflow.diffusion.presets import known_row
from dgflow.specs.step import Weights


@dataclass(frozen=True)
class NetworkRow:
    """EDM2 with a second network, by `Heun(steps=32)`.

    Args:
        second: description of the second network.
        baseline_fid: FID without guidance; None if not published.
    """

    settings: NetworkSettings
    second: str
    published_fid: float
    baseline_fid: float | None


@dataclass(frozen=True)
class ScalingRow:
    """A divisor, and the sampler for which it was published."""

    settings: ScalingSettings
    sampler: str


def _autoguided(weight: float, published_fid: float, baseline_fid: float | None) -> NetworkRow:
    second = "a smaller or less trained network of the same kind"
    return NetworkRow(NetworkSettings(weight=weight), second, published_fid, baseline_fid)


def _unconditional(weight: float, published_fid: float, baseline_fid: float, **levels: float) -> NetworkRow:
    settings = NetworkSettings(weight=weight, **levels)
    return NetworkRow(settings, "an unconditional XS", published_fid, baseline_fid)


NETWORK_ROWS = MappingProxyType(
    {
        "edm2-img512-s-autog": _autoguided(2.1, 1.34, 2.56),
        "edm2-img512-xxl-autog": _autoguided(2.05, 1.25, 1.91),
        "edm2-img512-s-uncond-autog": _autoguided(2.85, 3.86, None),
        "edm2-img64-s-autog": _autoguided(1.7, 1.01, 1.58),
        "edm2-img512-xs-guid": _unconditional(1.4, 2.91, 3.53),
        "edm2-img512-s-guid": _unconditional(1.4, 2.23, 2.56),
        "edm2-img512-xxl-guid": _unconditional(1.2, 1.81, 1.91),
        # Steps 17 to 22 of 32, which begin at noise levels 1.609 to 0.283.
        "edm2-img512-xxl-interval": _unconditional(2.0, 1.40, 1.91, sigma_min=0.19, sigma_max=1.61),
        "edm2-img512-l-ddo": NetworkRow(NetworkSettings(weight=1.1), "an XS", 1.21, 1.26),
    }
)
"""Rows by name. `-autog`: autoguidance. `-guid`: classifier-free guidance. `-interval`: classifier-free
guidance within an interval (FID 1.81 at all levels). `-ddo`: guidance of a network fine-tuned by DDO.
"""


def _scaled(factor: float, sampler: str) -> ScalingRow:
    return ScalingRow(ScalingSettings(factor=factor), sampler)


SCALING_ROWS = MappingProxyType(
    {
        "adm-cifar10": _scaled(1.017, "DDPM, 100 steps"),
        "adm-lsun-tower-64": _scaled(1.006, "DDPM, 100 steps"),
        "adm-ffhq-128": _scaled(1.005, "DDPM, 100 steps"),
        "adm-imagenet-64": _scaled(1.006, "DDPM, 100 steps"),
        "adm-imagenet-128-classifier": _scaled(1.004, "DDPM, 100 steps"),
        "edm-cifar10-cond": _scaled(1.0006, "Heun, 18 steps"),
        "edm-cifar10-uncond-euler": _scaled(1.0048, "Euler, 13 steps"),
    }
)
"""Constant divisors of the published runs."""


def network_guidance(row: str, network: Weights) -> tuple[Guidance, ...]:
    """A published guidance of EDM2 by a second network, such as "edm2-img512-s-autog" (FID 1.34) or
    "edm2-img512-xxl-interval" (1.40); `NETWORK_ROWS` has all.

    Raises ValueError for another row.
    """
    settings = NETWORK_ROWS[known_row(row, NETWORK_ROWS)].settings
    return (NetworkGuidance(network=network, **dict(settings)),)


def epsilon_scaling(row: str) -> tuple[Guidance, ...]:
    """A published epsilon scaling, such as "adm-cifar10" (divisor 1.017) or "edm-cifar10-uncond-euler"
    (1.0048); `SCALING_ROWS` has all.

    Raises ValueError for another row.
    """
    return (EpsilonScaling(**dict(SCALING_ROWS[known_row(row, SCALING_ROWS)].settings)),)
