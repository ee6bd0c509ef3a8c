"""Published settings of `Restart` (Xu et al. 2023), with their evaluations and FIDs."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from dgflow.diffusion.presets import known_row
from dgflow.diffusion.restart_settings import RestartInterval
from dgflow.diffusion.restart_specs import Restart


@dataclass(frozen=True)
class RestartRow:
    """A sampler for the networks of EDM's release; `published_fid` is None if unknown."""

    sampler: Restart
    published_fid: float | None = None


def _restarts(
    steps: int, *rows: tuple[int, int, float, float], S_noise: float = 1.0, published_fid: float | None = None
) -> RestartRow:
    """`rows`: (points, repeats, sigma_min, sigma_max), as published."""
    intervals = tuple(
        RestartInterval(points=points, repeats=repeats, sigma_min=low, sigma_max=high)
        for points, repeats, low, high in rows
    )
    churn = {"S_min": 0.01, "S_max": 1.0, "S_noise": S_noise, "restart_gamma": 0.05}
    return RestartRow(Restart(steps=steps, restarts=intervals, **churn), published_fid)


RESTART_ROWS = MappingProxyType(
    {
        "cifar10": _restarts(18, (3, 2, 0.14, 0.30)),
        "cifar10-vp-43": _restarts(18, (3, 2, 0.06, 0.30)),
        "cifar10-vp-55": _restarts(18, (3, 5, 0.06, 0.30)),
        "cifar10-vp-75": _restarts(18, (3, 10, 0.06, 0.30)),
        "cifar10-vp-115": _restarts(18, (3, 20, 0.06, 0.30)),
        "cifar10-vp-519": _restarts(20, (9, 30, 0.06, 0.20)),
        "imagenet64-203": _restarts(
            36,
            (4, 1, 19.35, 40.79),
            (4, 1, 1.09, 1.92),
            (4, 5, 0.59, 1.09),
            (4, 5, 0.30, 0.59),
            (6, 6, 0.06, 0.30),
            S_noise=1.003,
            published_fid=1.41,
        ),
    }
)
"""Rows by data set, score network (omitted for EDM's own and for PFGM++) and evaluations (43 for "cifar10").
"""


def restart(row: str) -> Restart:
    """A published sampler, such as "cifar10" (43 evaluations) or "imagenet64-203" (FID 1.41); `RESTART_ROWS`
    has all.

    Raises ValueError for another row.
    """
    return RESTART_ROWS[known_row(row, RESTART_ROWS)].sampler
