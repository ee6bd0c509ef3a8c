"""The noise levels of samplers, and their default ranges. Does not load torch."""

from __future__ import annotations

from typing import Literal

from dgflow.diffusion.linear_vp import LINEAR_VP

Discretization = Literal["vp", "ve", "iddpm", "edm"]

EPSILON_S = 1e-3
"""The smallest positive time of "vp" noise levels."""

ROUNDING = 1e-6
"""Tolerated relative error of a float32 noise level at the ends of a range."""

EDM_RANGE = (0.002, 80.0)
"""The exponent rho of Karras et al. 2022, equation 5."""


def rho_levels(num_steps: int, sigma_min: float, sigma_max: float, rho: float) -> tuple[float, ...]:
    """`num_steps` decreasing noise levels from sigma_max to sigma_min (Karras et al. 2022, equation 5)."""
    top, bottom = sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho)
    return tuple((top + i / (num_steps - 1) * (bottom - top)) ** rho for i in range(num_steps))


def default_range(discretization: Discretization, epsilon_s: float = EPSILON_S) -> tuple[float, float]:
    """(sigma_min, sigma_max) of Table 1 of Karras et al. 2022; the published sampler narrows it to the
    network's range.

    Raises ValueError for an unknown name.
    """
    ranges = {
        "vp": (LINEAR_VP.level(epsilon_s), LINEAR_VP.level(1.0)),
        "ve": (0.02, 100.0),
        "iddpm": (0.002, 81.0),
        "edm": EDM_RANGE,
    }
    if discretization not in ranges:
        raise ValueError(
            f"expected discretization to be one of {', '.join(ranges)}, found {discretization!r}"
        )
    return ranges[discretization]


def check_range(low_name: str, low: float | None, high_name: str, high: float | None) -> None:
    """Raise ValueError unless `low` < `high`; None is not compared."""
    if low is not None and high is not None and not low < high:
        raise ValueError(f"expected {low_name} < {high_name}, found {low} and {high}")
