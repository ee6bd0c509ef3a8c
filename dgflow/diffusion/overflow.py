"""Overflow of float16 while sampling: found where it happens, told after the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dgflow.diffusion.evaluation import Evaluate, Network, Place
from dgflow.diffusion.guidance import Advice, Guide


class Watch:
    """An `evaluation.Evaluate` that remembers the first evaluation with NaN or infinity since the last
    `check`, on the device, so that no step waits for it.

    Images are looked at before a sampler clips them: clipped, an infinite one would pass for a white one.

    Args:
        how: does the evaluations.
    """

    def __init__(self, how: Evaluate) -> None:
        self.how = how
        self._first: Tensor | None = None  # float64 [3]: step, noise level, 1 where the image itself is bad

    def __call__(
        self, network: Network, state: tuple[Tensor, ...], guidance: Sequence[Guide], place: Place
    ) -> tuple[Advice, Tensor | None]:
        """See `evaluation.Evaluate`."""
        advice, v = self.how(network, state, guidance, place)
        seen = [value for value in (advice.denoised, v) if value is not None]
        image_B = torch.stack([_is_bad(value) for value in seen]).any(dim=0)
        bad_B = image_B if advice.gradient is None else image_B | _is_bad(advice.gradient)
        step_B = place.step if isinstance(place.step, Tensor) else torch.full_like(place.sigma, place.step)
        # NaN, which stands for none yet, in the rows without overflow.
        found = torch.stack([step_B.double(), place.sigma.double(), image_B.double()])
        row = bad_B.to(torch.uint8).argmax()
        found = torch.where(bad_B.any(), found.index_select(1, row[None])[:, 0], torch.nan)
        self._first = found if self._first is None else torch.where(self._first.isnan(), found, self._first)
        return advice, v

    def check(self, name: str) -> None:
        """Raise FloatingPointError, naming the step and the noise level, if anything was not finite since the
        last time; waits for the device. `name` is that of what was made."""
        first, self._first = self._first, None
        step, level, of_image = (torch.nan,) * 3 if first is None else first.tolist()
        if step != step:
            return
        what = "the denoised image of the score network" if of_image else "the gradient of the guidance"
        raise FloatingPointError(
            f"{name}: expected numbers within the range of float16, at most 65,504, found NaN or infinity in "
            f"{what}, in step {step:.0f} of the sampler (from 0), at noise level {level:.6g}: take "
            'precision="bfloat16", which has the range of float32, or precision="float32"'
        )


def _is_bad(values: Tensor) -> Tensor:
    """bool [B]: rows with NaN or infinity."""
    return ~values.isfinite().flatten(1).all(dim=1)
