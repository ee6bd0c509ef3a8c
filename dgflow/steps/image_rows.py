"""Images or latents of a slice by number, in the form in which trainings see held-out ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dgflow.diffusion.acceleration import device
from dgflow.specs.bound import Bound
from dgflow.steps.training.rows import Form


def image_rows(
    inputs: Bound, field: str, *, seed: int, source: str
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Returns a function of adjacent numbers (int64 [b], any order, repeats allowed) that gives images
    float32 [b, C, H, W] and labels int64 [b] of the slice that `inputs` has as `field`, on the device.

    Args:
        seed: of the draws if the rows are means and standard deviations of latents.
        source: the slice, for messages.
    """
    form = Form.of(inputs.rows(field, None, 0, 1), mirror=False, source=source)

    def rows(numbers: Tensor) -> tuple[Tensor, Tensor]:
        first, last = int(numbers.min()), int(numbers.max()) + 1
        columns = inputs.rows(field, ["label", *form.columns], first, last)
        index = torch.arange(first, last)
        values = form.picked(columns, form.variant(seed, index, held=True))
        parts = [torch.from_numpy(np.ascontiguousarray(part)).to(device()) for part in values]
        images = form.finished(parts, seed, index, held=True)
        labels = torch.from_numpy(columns["label"].astype(np.int64)).to(device())
        chosen = (numbers - first).to(images.device)
        return images[chosen], labels[chosen]

    return rows
