"""The metrics of an epoch of a discriminator, from what was measured of its held-out items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = 8
"""Noise levels at which each held-out pair is measured, spread evenly over log sigma."""
CALIBRATION_BINS = 8


def summarise(values: dict[str, Tensor], sigma_min: float, sigma_max: float) -> dict[str, Any]:
    """Held-out loss, accuracy, and calibration by noise level.

    `calibration_error` is the expected calibration error: the mean over `CALIBRATION_BINS` bins of predicted
    probability, weighted by their share of the items, of |share of real - mean prediction|. A discriminator
    at chance has loss log 2 = 0.693.
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
        bins = (probability[chosen] * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
        gaps = torch.zeros(CALIBRATION_BINS, dtype=torch.float64).index_add(
            0, bins, is_real[chosen] - probability[chosen]
        )
        by_sigma.append(
            {
                "sigma": [float(low), float(high)],
                "n": int(chosen.sum()),
                "loss": float(values["loss"][chosen].mean()),
                "accuracy": float(right[chosen].mean()),
                "calibration_error": float(gaps.abs().sum() / chosen.sum()),
            }
        )
    return {
        "held_out_loss": float(values["loss"].mean()),
        "held_out_accuracy": float(right.mean()),
        "by_sigma": by_sigma,
    }
