"""The table and the curves of `Likelihood`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dgflow.specs.figures import Curve, Figure, Lines, Table

NAMES = {"nll": "NLL", "nelbo": "NELBO"}
STYLES = {"nll": "line", "nelbo": "dashed"}
X_LABEL = "noise level at which the ODE begins"


def likelihood_figures(content: Mapping[str, Any], methods: Sequence[str]) -> list[Figure]:
    """Returns bits per dimension by arm at the lowest noise level, and by the level at which the ODE
    begins."""
    table = _table(content, methods)
    if len(content["levels"]) == 1:
        return [table]
    return [table, *_lines(content, methods)]


def _table(content: Mapping[str, Any], methods: Sequence[str]) -> Table:
    arms = content["arms"]
    first, others = _compared(content, methods)
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


def _compared(content: Mapping[str, Any], methods: Sequence[str]) -> tuple[str, list[str]]:
    """Returns the arm from which changes are measured, and the others, as in the file, whose order may differ
    from the recipe's."""
    arms = content["arms"]
    others = [name for name, arm in arms.items() if f"{methods[0]}_change" in arm]
    (first,) = (name for name in arms if name not in others)
    return first, others


def _cell(arm: Mapping[str, Any], key: str, sign: str = "") -> str:
    return f"{arm[key][0]:{sign}.4f} ± {arm[f'{key}_error'][0]:.4f}" if key in arm else ""


def _lines(content: Mapping[str, Any], methods: Sequence[str]) -> list[Lines]:
    """Returns the curves of every method by truncation, and their changes by guidance, image by image. An arm
    has the same colour in both; the arm that the others are compared with is drawn last."""
    first, others = _compared(content, methods)

    def curves(arms: Sequence[str], suffix: str = "") -> list[Curve]:
        return [
            Curve(
                f"{NAMES[method]}, {name}",
                content["levels"],
                content["arms"][name][f"{method}{suffix}"],
                content["arms"][name][f"{method}{suffix}_error"],
                style=STYLES[method],  # type: ignore[arg-type]
                group=name,
            )
            for name in arms
            for method in methods
        ]

    axes: dict[str, Any] = {"x_label": X_LABEL, "y_label": "bits/dim", "log_x": True}
    lines = [Lines("Likelihood by truncation", curves([*others, first]), **axes)]
    if others:
        title, none = f"Change from {first} by truncation", (0.0, "no change")
        lines.append(Lines(title, curves(others, "_change"), level=none, **axes))
    return lines
