"""The figures of `Regeneration`, from the content of its file. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dgflow.specs.figures import Curve, Figure, Lines, Pictures, Table

NOISE = "noise level sigma"


def regeneration_figures(content: Mapping[str, Any]) -> Sequence[Figure]:
    """Returns distances by noise level, as curves and as a table, and the pictures of a few averages."""
    sigmas, arms = content["sigmas"], content["arms"]
    count, draws = content["images"], content["draws"]
    note = f"mean ± standard error of {count:,} real images, with {draws:,} draws of noise each"

    def curve(name: str, kind: str, label: str, style: Any = "line") -> Curve:
        values = arms[name][kind]
        means, errors = ([value[part] for value in values] for part in ("mean", "error"))
        return Curve(label, sigmas, means, errors, style=style, group=name)

    curves = [
        each
        for name in arms
        for each in (curve(name, "average", name), curve(name, "single", f"{name}, one image", "dashed"))
    ]
    figures: list[Figure] = [
        Lines(
            "Distance of regenerated images to the image, averages and single ones",
            curves,
            NOISE,
            "squared distance per value",
            log_x=True,
            log_y=True,
            note=note,
        )
    ]
    if judged := [curve(name, "features", name) for name in arms if "features" in arms[name]]:
        title = "Distance of averages to the image in the judge's features"
        figures.append(Lines(title, judged, NOISE, "Euclidean distance", log_x=True, note=note))
    return [*figures, _table(sigmas, arms, note), *_pictures(content)]


def _table(sigmas: Sequence[float], arms: Mapping[str, Any], note: str) -> Table:
    def cells(values: Sequence[Mapping[str, float]]) -> list[str]:
        return [f"{value['mean']:.3g} ± {value['error']:.2g}" for value in values]

    # In the file's order; arms in another order share the file.
    others = [name for name in arms if "difference" in arms[name]]
    (first,) = (name for name in arms if name not in others)
    rows = [[name, *cells(arms[name]["average"])] for name in arms]
    rows += [[f"{name} - {first}", *cells(arms[name]["difference"]["average"])] for name in others]
    heading = ["squared distance per value", *(f"sigma {sigma:g}" for sigma in sigmas)]
    return Table("Averages of regenerated images", heading, rows, note=note)


def _pictures(content: Mapping[str, Any]) -> list[Figure]:
    pictures, sigmas = content["pictures"], content["sigmas"]
    rows = [
        (f"{number + 1}, {name}", [image, *(level[number] for level in pictures["averages"][name])])
        for number, image in enumerate(pictures["images"])
        for name in content["arms"]
    ]
    if not rows:
        return []
    columns = ["image", *(f"sigma {sigma:g}" for sigma in sigmas)]
    title = f"The first {len(pictures['images'])} images and their averages"
    return [Pictures(title, columns, rows, pictures["side"])]
