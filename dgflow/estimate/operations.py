"""Count the FLOP of network evaluations, on the meta device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dgflow.estimate.exercise import Flops, count
from dgflow.specs.step import NetworkStep, Use, Work

if TYPE_CHECKING:
    from torch import nn


class Networks:
    """Networks on the meta device, each built once."""

    def __init__(self) -> None:
        self._built: dict[str, nn.Module] = {}

    def of(self, step: NetworkStep) -> nn.Module:
        import torch

        if step.fingerprint not in self._built:
            with torch.device("meta"):
                self._built[step.fingerprint] = step.fresh()
        return self._built[step.fingerprint]


class Operations:
    """The FLOP of work; each use of a network is counted once."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._known: dict[tuple[str, Use], Flops] = {}

    def per_row(self, work: Work) -> Flops:
        """The FLOP per row. Raises ValueError as `exercise.count`."""
        key = (work.network.fingerprint, work.use)
        if key not in self._known:
            self._known[key] = count(work.network, self._networks.of(work.network), work.use)
        return self._known[key]

    def total(self, works: Iterable[Work]) -> float:
        """The total FLOP of all works."""
        return sum(work.times * self.per_row(work).total for work in works)
