"""The content of a `ComparePlane` as figures and tables. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dgflow.specs.figures import Cloud, Curve, Figure, Lines, Metric, PlanePlot, Table

ARROW = 1.0
"""Length at which the longest exact correction is drawn, in distances of the grid."""

NOISE = "noise level sigma"
WEIGHT = "guidance weight"
ONE = (1.0, "weight 1")


def plane_figures(content: Mapping[str, Any], quantities: Mapping[str, Metric]) -> Sequence[Figure]:
    """Returns the table of the arms, the value of each discriminator, samples, fields, and curves by noise
    level and by weight."""
    guides = content["guides"]
    figures: list[Figure] = [_arms(content, quantities)]
    if guides:
        figures.append(_discriminators(content))
    figures += _samples(content) + _fields(content)
    return figures + (_by_level(content) + _by_weight(content) if guides else [])


def _arms(content: Mapping[str, Any], quantities: Mapping[str, Metric]) -> Table:
    rows = [
        [
            name,
            *(_value(metric, arm[key]) for key, metric in quantities.items()),
            f"{arm['n']:,}",
            f"{len(arm['seeds'])}",
        ]
        for name, arm in content["arms"].items()
    ]
    note = (
        "KL(data || samples) is exact, for the probability-flow ODE of the guided score; the energy distance "
        "is that of the drawn samples to the data's density, mean ± sample standard deviation over the "
        "sampling seeds; Gain is the exact decrease of a bound on KL (theorem 2 of the paper); KL and energy "
        "distance: lower is better, Gain: higher"
    )
    heading = ["", *(metric.heading for metric in quantities.values()), "samples", "seeds"]
    return Table("Samples against the data", heading, rows, note=note)


def _value(metric: Metric, value: Mapping[str, Any]) -> str:
    """Formats a value, as in `0.0123 ± 0.0004`; a value that rounds to zero has no sign."""
    mean = f"{value['mean']:z.{metric.decimals}f}"
    return mean + ("" if value["spread"] is None else f" ± {value['spread']:.{metric.decimals}f}")


def _discriminators(content: Mapping[str, Any]) -> Table:
    weights = next(iter(content["guides"].values()))["weights"]
    rows = []
    for name, guide in content["guides"].items():
        at = weights[min(range(len(weights)), key=lambda i: guide["kl"][i])]
        estimate = guide["estimate"]
        one = weights.index(1.0) if 1.0 in weights else None
        rows.append(
            [
                name,
                f"{guide['error'] / guide['correction']:.3f}",
                "" if one is None else f"{guide['gain'][one]:.4f}",
                "" if one is None else f"{estimate['gain'][one]:.4f} ± {estimate['error'][one]:.4f}",
                f"{guide['best_weight']:.2f}",
                f"{at:g}",
            ]
        )
    points = next(iter(content["guides"].values()))["estimate"]["points"]
    note = (
        "error of the correction: 0 is exact, 1 as bad as none; the integral of sigma^2 E|c - grad l|^2 over "
        "log sigma, with the exact correction c and the discriminator's log-ratio l, as a share of that of "
        f"|c|^2; Gain at weight 1, exact by quadrature, and estimated from {points:,} points as a training "
        "does (± standard error)"
    )
    heading = ["", "error of the correction", "Gain", "Gain, estimated", "weight of most Gain", "of least KL"]
    return Table("Log-ratios against the truth", heading, rows, note=note)


def _samples(content: Mapping[str, Any]) -> list[Figure]:
    half = content["half_width"]
    box = (-half, half)
    return [
        PlanePlot(
            "The data" if name == "data" else f"Samples: {name}",
            box,
            box,
            clouds=[Cloud(name, [(x, y) for x, y in points])],
        )
        for name, points in content["points"].items()
    ]


def _fields(content: Mapping[str, Any]) -> list[Figure]:
    """Returns the score of the model, the exact correction and the learned ones; all corrections to one
    scale."""
    field, half = content["field"], content["half_width"]
    box, at = (-half, half), field["at"]
    corrections = {"exact": field["correction"]} | {
        name: guide["field"] for name, guide in content["guides"].items() if name != "exact"
    }
    longest = max(math.hypot(*each) for each in field["correction"]) or 1.0
    scale = ARROW * 2 * half / (math.sqrt(len(at)) + 1) / longest

    def plot(title: str, by: Sequence[Sequence[float]], scale: float | None) -> PlanePlot:
        arrows = [((x, y), (dx, dy)) for (x, y), (dx, dy) in zip(at, by, strict=True)]
        return PlanePlot(f"{title} at sigma = {field['sigma']:g}", box, box, arrows=arrows, arrow_scale=scale)

    return [
        plot("Score of the model", field["model"], None),
        *(plot(f"Correction, {name},", by, scale) for name, by in corrections.items()),
    ]


def _by_level(content: Mapping[str, Any]) -> list[Figure]:
    guides = content["guides"]
    first = next(iter(guides.values()))["levels"]

    def curves(value: Callable[[Mapping[str, float]], float], learned: bool = True) -> list[Curve]:
        return [
            Curve(
                name,
                [level["sigma"] for level in guide["levels"]],
                [value(level) for level in guide["levels"]],
                group=name,
            )
            for name, guide in guides.items()
            if not learned or name != "exact"
        ]

    sigmas = [level["sigma"] for level in first]
    unguided = Curve("no guidance", sigmas, [level["correction"] for level in first], style="dashed")
    gains = [
        Curve(
            f"{name}, estimated",
            [level["sigma"] for level in guide["estimate"]["levels"]],
            [_per_log(level)[0] for level in guide["estimate"]["levels"]],
            [_per_log(level)[1] for level in guide["estimate"]["levels"]],
            style="points",
            group=name,
        )
        for name, guide in guides.items()
    ]
    return [
        Lines(
            "Error of the correction by noise level",
            [*curves(lambda level: level["error"]), unguided],
            NOISE,
            "sigma^2 E|c - grad l|^2",
            log_x=True,
        ),
        Lines(
            "Error of the log-ratio by noise level",
            curves(lambda level: level["rms_error"]),
            NOISE,
            "root mean square, nats",
            log_x=True,
        ),
        Lines(
            "Mean error of the log-ratio by noise level",
            curves(lambda level: level["mean_error"]),
            NOISE,
            "nats",
            log_x=True,
            level=(0.0, "exact"),
        ),
        Lines(
            "Correlation of learned and exact log-ratio",
            curves(lambda level: level["correlation"]),
            NOISE,
            log_x=True,
            level=(1.0, "exact"),
        ),
        Lines(
            "Gain by noise level, at weight 1",
            [*curves(lambda level: 2 * level["agreement"] - level["energy"], learned=False), *gains],
            NOISE,
            "nats per unit of log sigma",
            log_x=True,
            level=(0.0, "no gain"),
        ),
    ]


def _per_log(level: Mapping[str, Any]) -> tuple[float, float]:
    """Returns the Gain of a range of noise levels and its error, per unit of log sigma."""
    width = math.log(level["high"] / level["low"])
    return level["gain"][0] / width, level["gain"][1] / width


def _by_weight(content: Mapping[str, Any]) -> list[Figure]:
    guides = content["guides"]
    estimates = [
        Curve(
            f"{name}, estimated",
            guide["weights"],
            guide["estimate"]["gain"],
            guide["estimate"]["error"],
            style="points",
            group=name,
        )
        for name, guide in guides.items()
    ]
    exact = [Curve(name, guide["weights"], guide["gain"], group=name) for name, guide in guides.items()]
    return [
        Lines(
            "KL(data || samples) by weight",
            [Curve(name, guide["weights"], guide["kl"]) for name, guide in guides.items()],
            WEIGHT,
            "nats",
            mark=ONE,
            level=(content["kl_model"], "no guidance"),
        ),
        Lines("Gain by weight", [*exact, *estimates], WEIGHT, "nats", mark=ONE, level=(0.0, "no gain")),
    ]
