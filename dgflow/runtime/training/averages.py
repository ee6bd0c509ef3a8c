"""Exponential moving average of the weights that a training keeps.

Promises that the averaged weights are those of the images seen, whatever the batch. When they are applied is
left to the training loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

RAMP_UP = 0.05


class Averages:
    """Of the parameters of `network`, or nothing when `halflife` (in images) is None.

    The half-life is ramped up to 5 % of the images seen, as in EDM, so that early averages are not stuck at
    the initial weights.
    """

    def __init__(self, network: nn.Module, halflife: int | None) -> None:
        self.network, self.halflife = network, halflife
        self.values: dict[str, Tensor] = (
            {name: value.detach().clone() for name, value in network.named_parameters()} if halflife else {}
        )

    @torch.no_grad()
    def update(self, images_seen: int, batch_size: int) -> None:
        """After a step of `batch_size` images, which makes it `images_seen` in all."""
        if not self.values:
            return
        halflife = min(self.halflife or 1, images_seen * RAMP_UP)
        decay = 0.5 ** (batch_size / max(halflife, 1e-8))
        parameters = dict(self.network.named_parameters())
        average = get_ema_multi_avg_fn(decay)
        average(tuple(self.values.values()), tuple(parameters[name] for name in self.values), None)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While the network carries the averaged weights."""
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
