"""The metrics of a discriminator's epoch, computed from the measurements of its held-out items."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from dgflow.specs.train_step import Chance

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = 8
"""Noise levels at which each held-out pair is measured, spread evenly over log sigma."""
CALIBRATION_BINS = 8

LossName = Literal["bce", "lsif", "ukl", "bce+gradient"]
CHANCE: Mapping[LossName, Chance] = {
    "bce": Chance(math.log(2), "log 2"),
    "lsif": Chance(-0.25, "-1/4"),
    "ukl": Chance(0.5, "1/2"),
    "bce+gradient": Chance(math.log(2), "log 2"),
}
"""The held-out loss of a discriminator whose logit is always 0."""


def summarise(values: dict[str, Tensor], sigma_min: float, sigma_max: float) -> dict[str, Any]:
    """Returns held-out loss, accuracy, and calibration by noise level.

    `held_out_loss` and the `loss` by noise level are in the loss's own units: at chance it is log 2 = 0.693
    for cross-entropy, -1/4 for "lsif" and 1/2 for "ukl". If `values` contain the cross-entropy `bce` beside
    another loss, its mean is `held_out_bce`, which compares discriminators of different losses. If `values`
    contain the loss of the `gradient`, its mean over real items is `held_out_gradient`, in all and by noise
    level. Accuracy and calibration are of the logit, whatever the loss.

    `calibration_error` is the expected calibration error: the mean over `CALIBRATION_BINS` bins of predicted
    probability, weighted by their share of the items, of |share of real - mean prediction|.
    """
    import torch

    probability, is_real = values["logit"].sigmoid(), values["is_real"].double()
    right = ((values["logit"] > 0) == values["is_real"].bool()).double()
    levels = torch.linspace(0, 1, LEVELS + 1, dtype=torch.float64)
    edges = sigma_min * (sigma_max / sigma_min) ** levels
    by_sigma = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        chosen = (values["sigma"] >= low) & (values["sigma"] < high)
        if not chosen.any():
            continue
        by_sigma.append(
            _gradient(values, chosen, "gradient")
            | {
                "sigma": [float(low), float(high)],
                "n": int(chosen.sum()),
                "loss": float(values["loss"][chosen].mean()),
                "accuracy": float(right[chosen].mean()),
                "calibration_error": _calibration_error(probability[chosen], is_real[chosen]),
            }
        )
    beside = {"held_out_bce": float(values["bce"].mean())} if "bce" in values else {}
    beside |= _gradient(values, torch.ones_like(right, dtype=torch.bool), "held_out_gradient")
    return {
        "held_out_loss": float(values["loss"].mean()),
        **beside,
        "held_out_accuracy": float(right.mean()),
        "by_sigma": by_sigma,
    }


def _gradient(values: Mapping[str, Tensor], chosen: Tensor, name: str) -> dict[str, float]:
    """Returns the gradient's mean loss over the real items among the chosen ones, if it was measured."""
    if "gradient" not in values:
        return {}
    return {name: float(values["gradient"][chosen & values["is_real"].bool()].mean())}


def summarise_clean(values: dict[str, Tensor]) -> dict[str, Any]:
    """Returns held-out loss, accuracy and calibration as `summarise` does, for items without noise levels."""
    right = (values["logit"] > 0) == values["is_real"].bool()
    beside = {"held_out_bce": float(values["bce"].mean())} if "bce" in values else {}
    return {
        "held_out_loss": float(values["loss"].mean()),
        **beside,
        "held_out_accuracy": float(right.double().mean()),
        "calibration_error": _calibration_error(values["logit"].sigmoid(), values["is_real"].double()),
    }


def _calibration_error(probability: Tensor, is_real: Tensor) -> float:
    """Returns the expected calibration error of items, both float64 [n]."""
    bins = (probability * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    gaps = probability.new_zeros(CALIBRATION_BINS).index_add(0, bins, is_real - probability)
    return float(gaps.abs().sum() / len(probability))
