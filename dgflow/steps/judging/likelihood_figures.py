"""The table and the curves of `Likelihood`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dgflow.specs.figures import Curve, Figure, Lines, Table

NAMES = {"nll": "NLL", "nelbo": "NELBO"}
STYLES = {"nll": "line", "nelbo": "dashed"}


def likelihood_figures(content: Mapping[str, Any], methods: Sequence[str]) -> list[Figure]:
    """Bits per dimension by arm at the lowest noise level, and by the level at which the ODE begins."""
    table = _table(content, methods)
    if len(content["levels"]) == 1:
        return [table]
    return [table, _curves(content, methods), *_changes(content, methods)]


def _table(content: Mapping[str, Any], methods: Sequence[str]) -> Table:
    arms, (first, *others) = content["arms"], content["arms"]
    heading = ["arm", *(f"{NAMES[method]} (bits/dim)" for method in methods)]
    heading += [f"{NAMES[method]}: change from {first}" for method in methods] if others else []
    heading += ["NFE"] if "nll" in methods else []
    rows = []
    for name, arm in arms.items():
        row = [name, *(_cell(arm, method) for method in methods)]
        if others:
            row += [_cell(arm, f"{method}_change", sign="+") for method in methods]
        rows.append([*row, *([f"{arm['nfe'][0]:,.0f}"] if "nll" in methods else [])])
    note = (
        f"mean ± standard error over {content['images']:,} real images, at noise level "
        f"{content['levels'][0]:g}; lower is better; changes are of the same images and draws"
    )
    return Table("Likelihood", heading, rows, note=note)


def _cell(arm: Mapping[str, Any], key: str, sign: str = "") -> str:
    return f"{arm[key][0]:{sign}.4f} ± {arm[f'{key}_error'][0]:.4f}" if key in arm else ""


def _curves(content: Mapping[str, Any], methods: Sequence[str]) -> Lines:
    curves = [
        Curve(
            f"{NAMES[method]}, {name}",
            content["levels"],
            arm[method],
            arm[f"{method}_error"],
            style=STYLES[method],  # type: ignore[arg-type]
            group=name,
        )
        for name, arm in content["arms"].items()
        for method in methods
    ]
    return Lines(
        "Likelihood by truncation",
        curves,
        x_label="noise level at which the ODE begins",
        y_label="bits/dim",
        log_x=True,
    )


def _changes(content: Mapping[str, Any], methods: Sequence[str]) -> list[Lines]:
    """What guidance changes, image by image; nothing for one arm."""
    first, *others = content["arms"]
    curves = [
        Curve(
            f"{NAMES[method]}, {name}",
            content["levels"],
            content["arms"][name][f"{method}_change"],
            content["arms"][name][f"{method}_change_error"],
            style=STYLES[method],  # type: ignore[arg-type]
            group=name,
        )
        for name in others
        for method in methods
    ]
    return [
        Lines(
            f"Change from {first} by truncation",
            curves,
            x_label="noise level at which the ODE begins",
            y_label="bits/dim",
            log_x=True,
            level=(0.0, "no change"),
        )
    ] * bool(others)
