"""Samplers as moves between positions with decreasing noise levels.

A plain run walks a path from its first position to its last (`walk`). Selections inspect the samples between
moves and may send some of them back, so rows of a batch can be at different positions. Selections see the
state in EDM's scaling, x = x0 + sigma * n, independent of the sampler's own scaling.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dgflow.diffusion.guidance import OUTSIDE_LOG_RATIO, Guide, LogRatios, first_of, latest
from dgflow.diffusion.samplers import Noise, Sample, noised
from dgflow.diffusion.times import per_sample


@dataclass(frozen=True)
class State:
    """Samples between two moves.

    Args:
        scaled: [B, ...] float64, in the sampler's own scaling: `x` times `scale`.
        previous: log-ratios [B] of the last move, one per entry of guidance; None for an entry that was not
            evaluated.
        last: each sample's last log-ratios inside the windows; None for an entry that never returned one.
        evaluations: evaluations of the score network and of each entry of guidance in which each sample took
            part, int64 [B, 1 + entries], on the host.
        scale: [B] float64; None for 1, EDM's scaling.
    """

    scaled: Tensor
    previous: LogRatios
    last: LogRatios
    evaluations: np.ndarray
    scale: Tensor | None = None

    @classmethod
    def fresh(cls, scaled: Tensor, entries: int, scale: Tensor | None = None) -> State:
        """Samples before the first move, with `entries` entries of guidance."""
        none: LogRatios = [None] * entries
        return cls(scaled, none, none, np.zeros((len(scaled), 1 + entries), np.int64), scale)

    @property
    def x(self) -> Tensor:
        """The samples in EDM's scaling, float64 [B, ...]."""
        return self.scaled if self.scale is None else self.scaled / per_sample(self.scale, self.scaled)

    def times(self, scale: Tensor) -> Tensor:
        """x times `scale` [B]; bit-identical to the last move's result if the scale is unchanged."""
        ratio = scale if self.scale is None else scale / self.scale
        return self.scaled * per_sample(ratio, self.scaled)

    def moved(
        self, scaled: Tensor, log_ratios: LogRatios, evaluations: np.ndarray, scale: Tensor | None = None
    ) -> State:
        """The state after a move that gave `log_ratios` and took `evaluations`."""
        last = latest(self.last, log_ratios)
        return State(scaled, log_ratios, last, self.evaluations + evaluations, scale)

    def with_x(self, x: Tensor) -> State:
        """Replace the samples, for example after adding noise. Unchanged samples keep their bits in the
        sampler's own scaling.
        """
        if self.scale is None:
            return replace(self, scaled=x)
        kept = (x == self.x).flatten(1).all(dim=1)
        scaled = torch.where(per_sample(kept, x), self.scaled, x)
        return replace(self, scaled=scaled, scale=torch.where(kept, self.scale, 1.0))

    def rows(self, index: Sequence[int]) -> State:
        """Select samples, in the order of `index`."""
        chosen = torch.tensor(index, dtype=torch.int64, device=self.scaled.device)

        def some(log_ratios: LogRatios) -> LogRatios:
            return [None if value is None else value[chosen] for value in log_ratios]

        return State(
            self.scaled[chosen],
            some(self.previous),
            some(self.last),
            self.evaluations[np.asarray(index, int)],
            None if self.scale is None else self.scale[chosen],
        )

    def put(self, index: Sequence[int], samples: State) -> State:
        """Replace the samples at `index`."""
        places = list(range(len(self.scaled)))
        for number, place in enumerate(index):
            places[place] = len(places) + number
        return State.joined([self, samples]).rows(places)

    @staticmethod
    def joined(states: Sequence[State]) -> State:
        """Join several batches. A log-ratio that only some batches have is "outside" for the others."""

        def together(parts: Sequence[LogRatios]) -> LogRatios:
            return [_filled(values, states, OUTSIDE_LOG_RATIO) for values in zip(*parts, strict=True)]

        return State(
            torch.cat([state.scaled for state in states]),
            together([state.previous for state in states]),
            together([state.last for state in states]),
            np.concatenate([state.evaluations for state in states]),
            _filled([state.scale for state in states], states, 1.0),
        )

    @property
    def log_ratio(self) -> Tensor | None:
        """See `Sample.log_ratio`."""
        return first_of(self.last)


def _filled(values: Sequence[Tensor | None], states: Sequence[State], default: float) -> Tensor | None:
    if all(value is None for value in values):
        return None
    return torch.cat(
        [
            state.scaled.new_full((len(state.scaled),), default) if value is None else value.double()
            for value, state in zip(values, states, strict=True)
        ]
    )


class Path(ABC):
    """A sampler on a network, as moves from each of its positions to the next.

    A row's result does not depend on the other rows of its batch or their positions (up to the networks' own
    arithmetic).
    """

    guidance: Sequence[Guide]
    levels: Sequence[float]
    """The noise level of every position, non-increasing; the last one is 0."""
    draws: Sequence[int]
    """The maximum number of draws in the move from each position except the last."""
    evaluations: Sequence[int]
    """Evaluations of the score network in these moves."""

    @property
    def entries(self) -> int:
        """The number of entries of guidance."""
        return len(self.guidance)

    def begin(self, latents: Tensor, images: Tensor | None = None) -> State:
        """The state at the first position, from unit normals [B, ...] added to clean images, if given."""
        return State.fresh(noised(latents, self.levels[0], images), self.entries)

    @abstractmethod
    def move(
        self,
        state: State,
        at: Sequence[int],
        class_labels: Tensor | None,
        noise: Noise | None,
        spread: Sequence[bool] | None = None,
    ) -> State:
        """Move every row from its position to the next.

        Args:
            at: positions of the rows, on the host; they may differ.
            noise: number of a draw within the move, from 0 -> unit normals [B, ...]; None for no noise.
            spread: rows that are copies of each other and must diverge: they get the maximum churn of a step
                (`MAX_GAMMA`) where the sampler's churn acts; None for no rows.
        """


@torch.no_grad()
def walk(
    path: Path,
    latents: Tensor,
    *,
    images: Tensor | None = None,
    class_labels: Tensor | None = None,
    noise: Noise | None = None,
) -> Sample:
    """Run a sampler over its whole path. Draws are numbered over all moves; `noise` is called with the
    number.
    """
    state = path.begin(latents, images)
    before = 0
    for position, draws in enumerate(path.draws):
        own = None if noise is None else _after(noise, before)
        state = path.move(state, [position] * len(latents), class_labels, own)
        before += draws
    nfe, *others = (int(count) for count in state.evaluations.max(axis=0, initial=0))
    evaluations = torch.from_numpy(state.evaluations)
    return Sample(state.x, nfe, sum(others), state.log_ratio, tuple(others), evaluations)


def _after(noise: Noise, before: int) -> Noise:
    return lambda number: noise(before + number)
