"""The figures of `LossesByLevel`, from the content of its file. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dgflow.specs.figures import Curve, Figure, Lines

NOISE = "noise level sigma"
HEADINGS = {"bce": "cross-entropy", "lsif": "LSIF"}
AT_CHANCE = (math.log(2), "chance: log 2")


def loss_figures(content: Mapping[str, Any]) -> Sequence[Figure]:
    """Returns the figures: the integrals up to each level as shares, and cross-entropy and score matching by
    level."""
    edges, guides = content["sigma"], content["discriminators"]
    middles = [math.sqrt(low * high) for low, high in zip(edges, edges[1:], strict=False)]
    real, fake = (content["images"][kind] for kind in ("real", "fake"))
    images = f"mean ± standard error of {real:,} real and {fake:,} fake images"
    score = content["score_matching"]
    single = len(guides) == 1
    shares = [_share("score matching", edges, score)]
    shares += [
        _share(heading if single else f"{heading}, {name}", edges, guide[kind])
        for name, guide in guides.items()
        for kind, heading in HEADINGS.items()
    ]
    by_kind = [
        Curve(
            f"{kind} images" if single else f"{name}, {kind}",
            middles,
            values["mean"],
            values["error"],
            group=name,
        )
        for name, guide in guides.items()
        for kind, values in ((kind, guide["bce"][kind]) for kind in ("real", "fake"))
    ]
    noise = [Curve("score matching", middles, score["real"]["mean"], score["real"]["error"])]
    return [
        Lines(
            "Share of the loss below a noise level",
            shares,
            x_label=NOISE,
            y_label="share of the integral over log sigma",
            log_x=True,
            note=images,
        ),
        Lines(
            "Cross-entropy by noise level", by_kind, NOISE, "nats", log_x=True, level=AT_CHANCE, note=images
        ),
        Lines("Score matching by noise level", noise, NOISE, "|noise - predicted|² per pixel", log_x=True),
    ]


def _share(label: str, edges: Sequence[float], loss: Mapping[str, Any]) -> Curve:
    """Returns the share, from 0 at the lowest level to 1 at the highest."""
    return Curve(label, edges, [0.0, *loss["share"]], [0.0, *loss["share_error"]])
