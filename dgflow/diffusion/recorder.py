"""Record one sample along its sampler's path, without changing any sample."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dgflow.diffusion.evaluation import Guides, Network, Place, eagerly
from dgflow.diffusion.guidance import Advice, Guide, guided

FRAMES = 9
"""The maximum number of estimates that `Recorder.estimates` returns."""


class Recorder:
    """An `evaluation.Evaluate` that copies the guided denoised image of the first row at every n-th step.

    n doubles whenever there are 2 * `FRAMES` copies, so the number of steps need not be known. No step waits
    for the device. A compiled graph is recorded from outside and is not changed.

    Pass `guides` to the sampler in place of `guidance`.
    """

    def __init__(self, guidance: Sequence[Guide]) -> None:
        self._guidance = guidance
        self._how = guidance.how if isinstance(guidance, Guides) else eagerly
        self._every, self._steps = 1, 0
        self._frames: list[tuple[Tensor, Tensor]] = []  # noise level, image

    @property
    def guides(self) -> Guides:
        """The guidance, evaluated by this recorder."""
        return Guides(self._guidance, self)

    def __call__(
        self, network: Network, state: tuple[Tensor, ...], guidance: Sequence[Guide], place: Place
    ) -> tuple[Advice, Tensor | None]:
        """See `evaluation.Evaluate`."""
        advice, v = self._how(network, state, guidance, place)
        if place.order == 1:
            if self._steps % self._every == 0:
                self._frames.append((place.sigma[0].clone(), _first(advice, place.sigma)))
                if len(self._frames) == 2 * FRAMES:
                    self._frames, self._every = self._frames[::2], 2 * self._every
            self._steps += 1
        return advice, v

    def estimates(self) -> tuple[list[float], Tensor] | None:
        """(noise levels, estimates of the clean image [n, ...] float32): at most `FRAMES`, evenly spaced
        among the steps, in their order. Waits for the device. None if nothing was evaluated.
        """
        if not self._frames:
            return None
        levels = torch.stack([level for level, _ in self._frames]).tolist()
        # A sample that an adaptive solver has finished waits for others at its last noise level.
        moved = [0, *(place for place, (old, new) in enumerate(pairwise(levels), 1) if new != old)]
        count = min(FRAMES, len(moved))
        chosen = [moved[round(number * (len(moved) - 1) / max(1, count - 1))] for number in range(count)]
        return [levels[place] for place in chosen], torch.stack([self._frames[place][1] for place in chosen])


def _first(advice: Advice, sigma: Tensor) -> Tensor:
    """A copy of the first row's guided denoised image, which does not keep the batch in memory."""
    gradient = None if advice.gradient is None else advice.gradient[:1]
    own = Advice(advice.denoised[:1], gradient, [], ())
    return guided(own, sigma[:1])[0].to(torch.float32, copy=True)
