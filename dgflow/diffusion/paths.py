"""Samplers as moves between positions of falling noise levels.

A plain run walks a path from its first position to its last (`walk`). Selections look at the samples between
moves, and may send some of them back: the rows of a batch then stand at different positions. The state is in
EDM's scaling, x = x0 + sigma * n, whatever the sampler's own is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dgflow.diffusion.guidance import OUTSIDE_LOG_RATIO, Bounds, LogRatios, first_of, latest
from dgflow.diffusion.samplers import Noise, Sample, noised


@dataclass(frozen=True)
class State:
    """Samples between two moves.

    Args:
        x: [B, ...] float64 in EDM's scaling.
        previous: log-ratios [B] of the last move, one per entry of guidance, None if it was not evaluated.
        last: each sample's last log-ratios inside the windows; None of an entry that never gave one.
        evaluations: int64 [B, 1 + entries of guidance], on the host: those of the score network, and of each
            entry, in which each sample took part.
    """

    x: Tensor
    previous: LogRatios
    last: LogRatios
    evaluations: np.ndarray

    @classmethod
    def fresh(cls, x: Tensor, entries: int) -> State:
        """Samples that have not moved, under so many entries of guidance."""
        none: LogRatios = [None] * entries
        return cls(x, none, none, np.zeros((len(x), 1 + entries), np.int64))

    def moved(self, x: Tensor, log_ratios: LogRatios, evaluations: np.ndarray) -> State:
        """The state after a move that gave `log_ratios` and took `evaluations`."""
        return State(x, log_ratios, latest(self.last, log_ratios), self.evaluations + evaluations)

    def with_x(self, x: Tensor) -> State:
        """The same with other samples, as after noise was added."""
        return replace(self, x=x)

    def rows(self, index: Sequence[int]) -> State:
        """Some of the samples, in the order of `index`."""
        chosen = torch.tensor(index, dtype=torch.int64, device=self.x.device)

        def some(log_ratios: LogRatios) -> LogRatios:
            return [None if value is None else value[chosen] for value in log_ratios]

        return State(
            self.x[chosen], some(self.previous), some(self.last), self.evaluations[np.asarray(index, int)]
        )

    def put(self, index: Sequence[int], samples: State) -> State:
        """Other samples in the places of `index`."""
        places = list(range(len(self.x)))
        for number, place in enumerate(index):
            places[place] = len(places) + number
        return State.joined([self, samples]).rows(places)

    @staticmethod
    def joined(states: Sequence[State]) -> State:
        """One batch of several. A log-ratio that only some of them have is "outside" of the others."""

        def together(parts: Sequence[LogRatios]) -> LogRatios:
            return [_filled(values, states) for values in zip(*parts, strict=True)]

        return State(
            torch.cat([state.x for state in states]),
            together([state.previous for state in states]),
            together([state.last for state in states]),
            np.concatenate([state.evaluations for state in states]),
        )

    @property
    def log_ratio(self) -> Tensor | None:
        """See `Sample.log_ratio`."""
        return first_of(self.last)


def _filled(values: Sequence[Tensor | None], states: Sequence[State]) -> Tensor | None:
    if all(value is None for value in values):
        return None
    return torch.cat(
        [
            state.x.new_full((len(state.x),), OUTSIDE_LOG_RATIO) if value is None else value.double()
            for value, state in zip(values, states, strict=True)
        ]
    )


class Levels(NamedTuple):
    """Noise levels of a batch's rows: [B] float64, and what holds each of them on the host."""

    sigma: Tensor
    rows: Sequence[Bounds]

    @property
    def bounds(self) -> Bounds:
        """What holds all of them."""
        return min(low for low, _ in self.rows), max(high for _, high in self.rows)


@dataclass(frozen=True)
class Rows:
    """The positions at which the rows of a batch stand, known on the host, so that nothing waits for the
    device."""

    at: Sequence[int]
    device: torch.device

    def step(self, numbers: Sequence[int]) -> int | Tensor:
        """`Point.step`: the number of the step at each row's position, as one if they are equal, else int64
        [B]."""
        own = [numbers[position] for position in self.at]
        if len(set(own)) <= 1:
            return own[0] if own else 0
        return self._tensor(own, torch.int64)

    def of(self, values: Sequence[float], ahead: int = 0) -> Tensor:
        """[B] float64: each row's value, which is that at its position, or so many positions ahead."""
        return self._tensor([values[position + ahead] for position in self.at], torch.float64)

    def where(self, chosen: Sequence[bool]) -> Tensor:
        """[B] bool, of one value per row."""
        return self._tensor(list(chosen), torch.bool)

    def levels(self, values: Sequence[float], ahead: int = 0) -> Levels:
        """The noise levels of the rows."""
        own = [values[position + ahead] for position in self.at]
        return Levels(self.of(values, ahead), [(value, value) for value in own])

    def _tensor(self, values: list, dtype: torch.dtype) -> Tensor:
        if len(set(values)) == 1:
            return torch.full((len(values),), values[0], dtype=dtype, device=self.device)
        return torch.tensor(values, dtype=dtype, device=self.device)


class Path(ABC):
    """A sampler on a network, as moves from each of its positions to the next.

    A row's result does not depend on the other rows of its batch, nor on where these stand (as far as the
    networks' own arithmetic does not).
    """

    entries: int  # of guidance
    levels: Sequence[float]
    """The noise level of every position, not rising; the last one is 0."""
    draws: Sequence[int]
    """The most unit normals that the move from each position but the last can take."""
    evaluations: Sequence[int]
    """Evaluations of the score network that these moves take."""

    def begin(self, latents: Tensor, images: Tensor | None = None) -> State:
        """Samples at the first position, from unit normals [B, ...], on clean images if there are any."""
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
            at: the positions of the rows, on the host; they may differ.
            noise: the number of a draw within the move, from 0 -> unit normals [B, ...]; None for none.
            spread: rows that are copies of each other and have to part: they get as much churn as a step of
                the sampler can have (`MAX_GAMMA`), where its churn acts. None for none.
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
    """The whole run of a sampler. Draws are counted over all moves, `noise` is asked by their number."""
    state = path.begin(latents, images)
    before = 0
    for position, draws in enumerate(path.draws):
        own = None if noise is None else _after(noise, before)
        state = path.move(state, [position] * len(latents), class_labels, own)
        before += draws
    nfe, *others = (int(count) for count in state.evaluations.max(axis=0, initial=0))
    return Sample(state.x, nfe, sum(others), state.log_ratio, tuple(others))


def _after(noise: Noise, before: int) -> Noise:
    return lambda number: noise(before + number)
