"""The result of `CompareSelectors` as figures: FID and each selector by epoch, and a table of choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dgflow.metrics.protocols import DECIMALS
from dgflow.specs.figures import Curve, Figure, Lines, Table
from dgflow.steps.arm_values import value_text

_NOTE = (
    "Regret: FID of the chosen epoch minus the lowest mean FID, seed by seed. The lowest is found on the "
    "same samples, so regrets are slightly too large. Correlations are with FID over the sampled epochs: "
    "1 if the selector orders the epochs as FID does. In brackets is the 95 % interval over resampled "
    "seeds; p is two-sided, over permutations of the epochs, and too small if neighbouring epochs are "
    "alike."
)


def figures_of(result: Mapping[str, Any]) -> Sequence[Figure]:
    """Returns the figures for the page; `result` is the file of `CompareSelectors.compute`."""
    selectors = result["selectors"].items()
    return (
        _fid(result),
        *(_by_epoch(each, result) for name, each in selectors if name != "last"),
        _table(result),
    )


def _fid(result: Mapping[str, Any]) -> Lines:
    epochs, fids = result["epochs"], result["fid"]
    means = [each["mean"] for each in fids]
    spreads = [each["spread"] for each in fids]
    seeds = len(result["seeds"])
    others = list(result["arms"].items())
    curves = [
        Curve("guided by that epoch", epochs, means, None if None in spreads else spreads),
        *(Curve(name, [epochs[0], epochs[-1]], [arm["mean"]] * 2, style="dashed") for name, arm in others),
    ]
    least = epochs[means.index(min(means))]
    title = f"FID by epoch, {result['n']:,} samples" + (
        f", mean and spread over {seeds} seeds" if seeds > 1 else ""
    )
    return Lines(title, curves, "epoch", "FID", mark=(least, f"lowest, epoch {least}"))


def _by_epoch(selector: Mapping[str, Any], result: Mapping[str, Any]) -> Lines:
    errors = selector["errors"]
    curve = Curve(
        selector["heading"], result["trained"], selector["values"], None if None in errors else errors
    )
    choice = selector["choice"]
    return Lines(
        f"{selector['heading']} by epoch",
        [curve],
        "epoch",
        selector["heading"],
        mark=(choice, f"its choice, epoch {choice}"),
    )


def _table(result: Mapping[str, Any]) -> Table:
    heading = ("selector", "epoch", "FID", "regret", "Spearman", "Kendall")
    rows = [
        (
            each["heading"],
            str(each["choice"]),
            value_text(each["fid"], DECIMALS["fid"]),
            value_text(each["regret"], DECIMALS["fid"]),
            _correlation(each["spearman"]),
            _correlation(each["kendall"]),
        )
        for each in result["selectors"].values()
    ]
    least = min(each["regret"]["mean"] for each in result["selectors"].values())
    marked = [
        number for number, each in enumerate(result["selectors"].values()) if each["regret"]["mean"] == least
    ]
    return Table("The epoch that each selector chooses", heading, rows, marked, _NOTE)


def _correlation(found: Mapping[str, Any]) -> str:
    if found["value"] is None:
        return "–"
    interval = "" if found["interval"] is None else " [{:.2f}, {:.2f}]".format(*found["interval"])
    return f"{found['value']:.2f}{interval}, p = {found['p']:.3f}"
