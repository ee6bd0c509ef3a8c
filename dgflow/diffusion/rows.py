"""The rows of a batch at their positions along a path, in groups of rows that move together.

Positions are known on the host, so nothing waits for the device; host work is per group, so it does not grow
with the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from dgflow.diffusion.guidance import Bounds

T = TypeVar("T")


class Levels(NamedTuple):
    """Noise levels of a batch's rows, float64 [B], and the bounds of each group, on the host."""

    sigma: Tensor
    groups: Sequence[Bounds]

    @property
    def bounds(self) -> Bounds:
        """Host floats (low, high) that enclose the levels of all groups."""
        return min(low for low, _ in self.groups), max(high for _, high in self.groups)


@dataclass(frozen=True)
class Rows:
    """The rows of a batch.

    Args:
        positions: position of each group.
        spread: per group, see `paths.Path.move`.
        group: group of each row, int64 [B], on the host; None if there is one group.
        count: number of rows, B.
    """

    positions: Sequence[int]
    spread: Sequence[bool]
    group: np.ndarray | None
    count: int
    device: torch.device

    @classmethod
    def at(cls, at: Sequence[int], device: torch.device, spread: Sequence[bool] | None = None) -> Rows:
        """Group rows by their positions; arguments [B] each."""
        spread = [False] * len(at) if spread is None else spread
        first = (at[0], spread[0]) if at else (0, False)
        if (at.count(first[0]), spread.count(first[1])) == (len(at), len(at)):
            return cls([first[0]], [first[1]], None, len(at), device)
        numbers: dict[tuple[int, bool], int] = {}
        group = [numbers.setdefault(kind, len(numbers)) for kind in zip(at, spread, strict=True)]
        return cls([p for p, _ in numbers], [s for _, s in numbers], np.array(group), len(at), device)

    def step(self, numbers: Sequence[int]) -> int | Tensor:
        """`Point.step`: the step number at each row's position: one number if all are equal, otherwise int64
        [B].
        """
        own = [numbers[position] for position in self.positions]
        return own[0] if len(set(own)) == 1 else self._tensor(own, torch.int64)

    def of(self, values: Sequence[float], ahead: int = 0) -> Tensor:
        """The value at each row's position, or `ahead` positions further; float64 [B]."""
        return self.each([values[position + ahead] for position in self.positions])

    def each(self, values: Sequence[float]) -> Tensor:
        """One value per group, expanded to float64 [B]."""
        return self._tensor(values, torch.float64)

    def where(self, chosen: Sequence[bool]) -> Tensor:
        """One value per group, expanded to bool [B]."""
        return self._tensor(chosen, torch.bool)

    def levels(self, values: Sequence[float], ahead: int = 0) -> Levels:
        """The noise levels of the rows."""
        own = [values[position + ahead] for position in self.positions]
        return Levels(self.each(own), [(value, value) for value in own])

    def listed(self, values: Sequence[T]) -> list[T]:
        """One value per group, expanded to [B] on the host."""
        if self.group is None:
            return [values[0]] * self.count
        return [values[group] for group in self.group]

    def counts(self, values: np.ndarray) -> np.ndarray:
        """Expand [groups, ...] to [B, ...] on the host."""
        if self.group is None:
            return np.broadcast_to(values[0], (self.count, *values.shape[1:]))
        return values[self.group]

    def _tensor(self, values: Sequence[Any], dtype: torch.dtype) -> Tensor:
        if len(set(values)) == 1:
            return torch.full((self.count,), values[0], dtype=dtype, device=self.device)
        return torch.tensor(values, dtype=dtype, device=self.device)[self._group_B]

    @cached_property
    def _group_B(self) -> Tensor:
        return torch.as_tensor(self.group, device=self.device)
