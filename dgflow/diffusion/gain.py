"""Gain (Kim et al. 2023, theorem 2) from held-out real images: the basis for selecting a discriminator, its
weight and its window without generating images.

Theorem 2's difference of score errors equals the difference of denoising errors on real images, where the
unknown score of the data cancels:

    Gain(w) = integral of sigma^-3 E[|x0 - D|^2 - |x0 - D'|^2] d sigma,   D' = D + w sigma^2 gradient

with the gradient of the log-ratio in x = x0 + sigma z. The difference is expanded, so that no two large
errors are subtracted: an item (an image at a noise level) gives 2 w agreement - w^2 energy per unit of log
sigma (`gain_curve`). Positive is better; only the integrated range of noise levels counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dgflow.diffusion.discriminator_guidance import LogRatio, log_ratio_and_gradient
from dgflow.diffusion.gain_curve import GainCurve, LevelGain, MeasuredGain
from dgflow.diffusion.samplers import Denoiser
from dgflow.diffusion.times import TimeMap, per_sample, tau_from_sigma


class Noisy(NamedTuple):
    """Noisy real images, and a score network's residuals on them; independent of the discriminator.

    Args:
        x: x0 + sigma z [B, ...], float32.
        residual: x0 - D(x) like x, float32.
        sigma: [B], float64.
        class_labels: the discriminator's labels.
    """

    x: Tensor
    residual: Tensor
    sigma: Tensor
    class_labels: Tensor | None = None

    def part(self, first: int, last: int) -> Noisy:
        """The images [first, last)."""
        return self._each(lambda values: values[first:last])

    def to(self, device: torch.device | str) -> Noisy:
        """Copy to a device."""
        return self._each(lambda values: values.to(device))

    @classmethod
    def joined(cls, parts: Sequence[Noisy]) -> Noisy:
        """Concatenate parts, in order."""
        labels = [part.class_labels for part in parts if part.class_labels is not None]
        x, residual, sigma = (
            torch.cat(values)
            for values in zip(*((part.x, part.residual, part.sigma) for part in parts), strict=True)
        )
        return cls(x, residual, sigma, torch.cat(labels) if labels else None)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Noisy:
        labels = None if self.class_labels is None else change(self.class_labels)
        return Noisy(change(self.x), change(self.residual), change(self.sigma), labels)


class Moments(NamedTuple):
    """`agreement` (x0 - D) * gradient and `energy` |sigma * gradient|^2 of items, float64 [B] each."""

    agreement: Tensor
    energy: Tensor

    @classmethod
    def of(cls, residual: Tensor, gradient: Tensor, sigma: Tensor) -> Moments:
        """The moments of residuals x0 - D and gradients in x, [B, ...], at levels sigma [B]."""
        agreement = (residual.double() * gradient).flatten(1).sum(1)
        return cls(agreement, sigma.square() * gradient.square().flatten(1).sum(1))


@torch.no_grad()
def denoised(
    denoiser: Denoiser,
    images: Tensor,
    sigma: Tensor,
    noise: Tensor,
    class_labels: Tensor | None = None,
    seen: Tensor | None = None,
) -> Noisy:
    """Images x0 [B, ...] with unit normals `noise` at levels sigma [B], and the denoiser's residuals.

    Args:
        class_labels: the denoiser's labels.
        seen: the discriminator's labels.
    """
    sigma, images = sigma.double(), images.double()
    x = images + per_sample(sigma, images) * noise
    residual = images - denoiser(x, sigma, class_labels).double()
    return Noisy(x.float(), residual.float(), sigma, seen)


@torch.no_grad()
def moments(discriminator: LogRatio, noisy: Noisy, *, time: TimeMap = tau_from_sigma) -> Moments:
    """Agreement and energy of each item; `time` as in `DiscriminatorTerm`."""
    _, gradient = log_ratio_and_gradient(
        discriminator, noisy.x.double(), noisy.sigma, noisy.class_labels, time=time
    )
    return Moments.of(noisy.residual, gradient, noisy.sigma)


def measured(items: Moments, edges: Sequence[float]) -> MeasuredGain:
    """Gain over images, with one item per image and level, float64 [images, levels].

    Args:
        edges: the boundaries of the levels' ranges, increasing noise levels; within each range, log sigma was
            drawn uniformly.

    Raises ValueError for fewer than two images, for which no error can be estimated.
    """
    images, levels = items.agreement.shape
    if images < 2:
        raise ValueError(
            f"expected at least two images, as Gain's error is estimated from their spread, found {images}"
        )
    if levels != len(edges) - 1:
        raise ValueError(f"expected {levels + 1} edges of {levels} levels, found {len(edges)}")
    pairs = torch.stack(items, dim=2).double()  # [images, levels, 2]
    width = torch.tensor(edges, dtype=torch.float64).log().diff()[:, None]
    pairs = pairs * width  # width in log sigma, for the integral
    parts = (
        LevelGain(float(low), float(high), _curve(pairs[:, number]))
        for number, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True))
    )
    return MeasuredGain(images, _curve(pairs.sum(1)), tuple(parts))


def level_edges(levels: int, sigma_min: float, sigma_max: float) -> list[float]:
    """The boundaries of `levels` ranges of equal size in log sigma, increasing."""
    inner = (sigma_min * (sigma_max / sigma_min) ** (number / levels) for number in range(1, levels))
    return [sigma_min, *inner, sigma_max]


def _curve(pairs_N2: Tensor) -> GainCurve:
    """The Gain curve of independent pairs (agreement, energy)."""
    mean = pairs_N2.mean(0)
    spread = (pairs_N2 - mean).T @ (pairs_N2 - mean) / (len(pairs_N2) - 1) / len(pairs_N2)
    first, mixed, second = float(spread[0, 0]), float(spread[0, 1]), float(spread[1, 1])
    return GainCurve(float(mean[0]), float(mean[1]), (first, mixed, second))
