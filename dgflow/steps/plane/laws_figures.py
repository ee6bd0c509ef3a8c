"""The content of a `CompareLaws` as a table and pictures. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dgflow.diffusion.mixture_specs import GaussianMixture
from dgflow.specs.figures import Cloud, Figure, PlanePlot, Table
from dgflow.steps.arm_values import value_text

SURE = 3.0
"""Standard errors of the energy distance up to which two distributions count as equal."""


def laws_figures(content: Mapping[str, Any], data: GaussianMixture) -> Sequence[Figure]:
    """Returns the table of the arms, with a mark on those that have the distribution of the data within their
    error, and their samples."""
    half = max(
        abs(coordinate) + 4 * std
        for mean, std in zip(data.means, data.stds, strict=True)
        for coordinate in mean
    )
    box = (-half, half)
    return [
        _table(content["arms"]),
        *(
            PlanePlot(f"Samples: {name}", box, box, clouds=[Cloud(name, [(x, y) for x, y in points])])
            for name, points in content["points"].items()
        ),
    ]


def _table(arms: Mapping[str, Any]) -> Table:
    rows = [
        [
            name,
            value_text(arm["energy"], 4),
            f"{arm['deviation']['mean']:.1f}",
            value_text(arm["modes"], 4),
            f"{arm['log_density']['mean']:+.3f}",
            f"{arm['evaluations']['mean']:.1f}",
            f"{arm['n']:,}",
            f"{len(arm['seeds'])}",
        ]
        for name, arm in arms.items()
    ]
    heading = ["", "energy distance", "in standard errors", "weights of modes, error", "log-density, excess"]
    note = (
        "energy distance to the data's density, mean ± sample standard deviation over the sampling "
        "seeds, and in standard errors of that of true samples; half the sum of errors of the modes' "
        "weights; mean log-density of the data at the samples, minus that of the data. Marked: the "
        f"distribution of the data within {SURE:g} standard errors"
    )
    marked = [row for row, arm in enumerate(arms.values()) if abs(arm["deviation"]["mean"]) < SURE]
    heading += ["score evaluations", "samples", "seeds"]
    return Table("Laws of the samples against the data's", heading, rows, marked, note)
