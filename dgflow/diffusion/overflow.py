"""Detect overflow of float16 in sampling: recorded at the step where it occurs, reported after the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dgflow.diffusion.evaluation import Evaluate, Network, Place
from dgflow.diffusion.guidance import Advice, Guide


class Watch:
    """An `evaluation.Evaluate` that records the first evaluation with NaN or infinity since the last `check`.
    The record stays on the device, so that no step waits for it.

    Images are checked before a sampler clips them, since clipping turns infinity into white.

    Args:
        how: the function that evaluates.
    """

    def __init__(self, how: Evaluate) -> None:
        self.how = how
        self._first: Tensor | None = None  # float64 [3]: step, noise level, 1 for the image, 0 for a gradient

    def __call__(
        self, network: Network, state: tuple[Tensor, ...], guidance: Sequence[Guide], place: Place
    ) -> tuple[Advice, Tensor | None]:
        """See `evaluation.Evaluate`."""
        advice, v = self.how(network, state, guidance, place)
        outputs = [value for value in (advice.denoised, v) if value is not None]
        image_B = torch.stack([_is_bad(value) for value in outputs]).any(dim=0)
        bad_B = image_B if advice.gradient is None else image_B | _is_bad(advice.gradient)
        step_B = place.step if isinstance(place.step, Tensor) else torch.full_like(place.sigma, place.step)
        # The record of the first bad row; NaN if no row is bad.
        records = torch.stack([step_B.double(), place.sigma.double(), image_B.double()])
        row = bad_B.to(torch.uint8).argmax()
        new = torch.where(bad_B.any(), records.index_select(1, row[None])[:, 0], torch.nan)
        self._first = new if self._first is None else torch.where(self._first.isnan(), new, self._first)
        return advice, v

    def check(self, name: str) -> None:
        """Raise FloatingPointError if any value since the last call was not finite; waits for the device. The
        error names `name` (the name of the samples), the step and the noise level."""
        first, self._first = self._first, None
        step, level, of_image = (torch.nan,) * 3 if first is None else first.tolist()
        if step != step:
            return
        what = "the denoised image of the score network" if of_image else "the gradient of the guidance"
        raise FloatingPointError(
            f"{name}: expected numbers within the range of float16, at most 65,504, found NaN or infinity in "
            f"{what}, in step {step:.0f} of the sampler (from 0), at noise level {level:.6g}: use "
            'precision="bfloat16", which has the range of float32, or precision="float32"'
        )


def _is_bad(values: Tensor) -> Tensor:
    """bool [B]: rows with NaN or infinity."""
    return ~values.isfinite().flatten(1).all(dim=1)
