"""Conversion of samples between images in [-1, 1] and pixels, and the count of saturated samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from dgflow.specs.step import MeasuredColumns, SampleStep
from dgflow.steps.encode import Encode

if TYPE_CHECKING:
    from torch import Tensor

    from dgflow.store.shards import Columns

SATURATED = "saturated"


def saturated(images_BCHW: Tensor) -> np.ndarray:
    """Returns a mask [B] of saturated images: more than a quarter of the values lie outside [-1.5, 1.5]."""
    return ((images_BCHW.abs() > 1.5).flatten(1).float().mean(dim=1) > 0.25).cpu().numpy()


def counted(
    columns: Columns, saturated_N: np.ndarray | None, metrics: Mapping[str, float] | None = None
) -> Columns:
    """Returns the columns with what the receipt records, if anything: `metrics` and the number of saturated
    images."""
    count = 0 if saturated_N is None else int(saturated_N.sum())
    metrics = dict(metrics or {}) | ({SATURATED: count} if count else {})
    return MeasuredColumns(columns, metrics) if metrics else columns


def pixels(images_BCHW: Tensor, offset: float = 128.0) -> np.ndarray:
    """Converts images in [-1, 1] to uint8 [B, H, W, C]: 127.5 times the image plus `offset`, truncated; by
    default as EDM and DiT write their images."""
    import torch

    return (
        (images_BCHW * 127.5 + offset)
        .clip(0, 255)
        .to(torch.uint8)
        .permute(0, 2, 3, 1)
        .contiguous()
        .cpu()
        .numpy()
    )


def clean_column(step: SampleStep) -> str:
    """Returns the column that holds the clean samples of a step; for an `Encode`, the means if it has
    them."""
    if not step.gives_latents:
        return "image"
    return "mean" if isinstance(step, Encode) and "mean" in step.columns else "latent"


def clean_images(rows: Columns) -> Tensor:
    """Returns the samples in a `clean_column`, float64 [B, C, H, W]: images in [-1, 1], or latents; the first
    of several draws."""
    import torch

    (values,) = (torch.from_numpy(np.ascontiguousarray(values)) for values in rows.values())
    if values.dtype == torch.uint8:
        return values.permute(0, 3, 1, 2).double() / 127.5 - 1
    return (values[:, 0] if values.ndim == 5 else values).double()
