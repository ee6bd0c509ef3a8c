"""Exponential moving average of a network's weights, by images seen, independent of the batch size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

RAMP_UP = 0.05


class Averages:
    """Exponential moving average of the network's parameters; disabled if `halflife` (in images) is None.

    The half-life is at most 5 % of the images seen, as in EDM, so that the initial weights do not dominate
    early averages. Without `ramp_up` it is constant, for networks that start from trained weights.
    """

    def __init__(self, network: nn.Module, halflife: int | None, *, ramp_up: bool = True) -> None:
        self.network, self.halflife, self.ramp_up = network, halflife, ramp_up
        self.values: dict[str, Tensor] = (
            {name: value.detach().clone() for name, value in network.named_parameters()} if halflife else {}
        )

    @torch.no_grad()
    def update(self, images_seen: int, batch_size: int) -> None:
        """Updates the average after a step of `batch_size` images; `images_seen` includes them."""
        if not self.values:
            return
        halflife = self.halflife or 1
        if self.ramp_up:
            halflife = min(halflife, images_seen * RAMP_UP)
        decay = 0.5 ** (batch_size / max(halflife, 1e-8))
        parameters = dict(self.network.named_parameters())
        current = tuple(parameters[name] for name in self.values)
        get_ema_multi_avg_fn(decay)(tuple(self.values.values()), current, None)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Returns a context in which the network has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.network.named_parameters():
            if name in self.values:
                held = parameter.detach().clone()
                parameter.copy_(self.values[name])
                self.values[name].copy_(held)
