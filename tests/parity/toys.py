"""The closed forms that stand in for networks in the workbench's golden cases: a Gaussian mixture's exact
denoiser, `gm_*`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ToyMixture:
    """A mixture of K Gaussians in [C, H, W]: `means` [K, C, H, W], `stds` [K], `log_weights` [K], and with
    classes what each adds to them, `by_label` [L, K]; all float64."""

    means: Tensor
    stds: Tensor
    log_weights: Tensor
    by_label: Tensor | None = None

    @classmethod
    def of(cls, arrays: Mapping[str, Tensor], kind: str = "gm") -> ToyMixture:
        """That of a case's arrays `in_<kind>_*`."""
        means, stds, log_weights = (arrays[f"in_{kind}_{part}"].double() for part in ("mean", "std", "logpi"))
        label = arrays.get(f"in_{kind}_label")
        return cls(means, stds, log_weights, None if label is None else label.double())

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """E[x0 | x] of x [B, C, H, W] at noise levels [B]; `class_labels` are one-hot rows [B, L]."""
        posterior = self._joint(x, sigma, class_labels).softmax(1)[..., None, None, None]
        kept = (self.stds**2 / (self.stds**2 + sigma[:, None] ** 2))[..., None, None, None]
        return (posterior * (self.means + kept * (x[:, None] - self.means))).sum(1)

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """log p [B] without a class."""
        log_weights = self.log_weights.log_softmax(0)
        return self._joint(x, sigma).add(log_weights - self.log_weights).logsumexp(1)

    def _joint(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        variance = self.stds**2 + sigma[:, None] ** 2  # [B, K]
        square = (x[:, None] - self.means).square().flatten(2).sum(2)
        log_norm = 0.5 * self.means[0].numel() * (2 * math.pi * variance).log()
        joint = self.log_weights - square / (2 * variance) - log_norm
        if self.by_label is None or class_labels is None:
            return joint
        return joint + class_labels.double() @ self.by_label
