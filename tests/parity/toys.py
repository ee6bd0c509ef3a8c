"""The closed forms that stand in for networks in the workbench's golden cases: a Gaussian mixture's exact
denoiser, `gm_*`, and a discriminator's logit, `dl_*`."""

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
        """The denoiser of a case's arrays `in_<kind>_*`."""
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


@dataclass(frozen=True)
class ToyLogit:
    """A logit of y [B, C, H, W] at time tau, c0 + c1 tau + (1 - tau) sum(A y) / sqrt(d) + c2 mean(y^2), and
    with classes what each adds to it; float32."""

    A: Tensor
    c: tuple[float, float, float]
    by_label: Tensor | None = None

    @classmethod
    def of(cls, arrays: Mapping[str, Tensor]) -> ToyLogit:
        """The logit of a case's arrays `in_dl_*`."""
        c0, c1, c2 = arrays["in_dl_c"].tolist()
        return cls(arrays["in_dl_A"].float(), (c0, c1, c2), arrays.get("in_dl_e"))

    def __call__(self, y: Tensor, tau: Tensor, class_labels: Tensor | None = None) -> Tensor:
        c0, c1, c2 = self.c
        slope = (self.A * y).flatten(1).sum(1) / math.sqrt(self.A.numel())
        logit = c0 + c1 * tau + (1 - tau) * slope + c2 * y.square().flatten(1).mean(1)
        if self.by_label is None or class_labels is None:
            return logit
        return logit + class_labels.float() @ self.by_label
