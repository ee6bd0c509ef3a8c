"""Two-dimensional Gaussian mixtures: their noisy density, denoiser and log-ratio are known exactly at every
noise level."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dgflow.diffusion.guidance import scale_at
from dgflow.diffusion.guidance_settings import Scale
from dgflow.diffusion.samplers import Denoiser
from dgflow.diffusion.times import per_sample, sigma_from_tau, tau_from_sigma


@dataclass(frozen=True)
class Mixture:
    """Components with `weights`, `means` and one common standard deviation `std` in each coordinate."""

    weights: tuple[float, ...]
    means: tuple[tuple[float, float], ...]
    std: float

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Returns log p [B] of x = x0 + sigma * z at x [B, 2], sigma [B]."""
        return torch.logsumexp(self._joint(x, sigma), dim=1)

    def denoiser(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Returns E[x0 | x] by Bayes' rule: the posterior mean of each component, weighted by its posterior
        probability."""
        variance = (self.std**2 + sigma**2)[:, None, None]
        means = torch.tensor(self.means, dtype=x.dtype)
        posterior = torch.softmax(self._joint(x, sigma), dim=1)
        return (posterior[..., None] * (means + self.std**2 / variance * (x[:, None] - means))).sum(1)

    def draw(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """Returns samples [B, 2] from uniforms [B] and normals [B, 2]."""
        chosen = torch.searchsorted(
            torch.tensor(self.weights).double().cumsum(0), uniform.contiguous()
        ).clamp_max(len(self.weights) - 1)
        return torch.tensor(self.means).double()[chosen] + self.std * normal

    def _joint(self, x: Tensor, sigma: Tensor) -> Tensor:
        variance = (self.std**2 + sigma**2)[:, None]
        means, weights = torch.tensor(self.means, dtype=x.dtype), torch.tensor(self.weights, dtype=x.dtype)
        square = (x[:, None] - means).square().sum(2)
        return weights.log() - square / (2 * variance) - torch.log(2 * math.pi * variance)


REAL = Mixture((0.25, 0.75), ((-1.0, 0.5), (1.0, 0.0)), 0.3)
MODEL = Mixture((0.6, 0.4), ((-1.1, 0.4), (0.9, 0.1)), 0.35)


def exact_log_ratio(y: Tensor, tau: Tensor, class_labels: Tensor | None = None) -> Tensor:
    """Returns the output of a perfect discriminator of REAL and MODEL for y = x / sqrt(1 + sigma^2); computed
    in float64."""
    sigma = sigma_from_tau(tau.double())
    x = y.double() * (1 + sigma**2).sqrt()[:, None]
    return REAL.log_density(x, sigma) - MODEL.log_density(x, sigma)


@dataclass(frozen=True)
class Labelled:
    """A mixture whose class labels are the numbers of its components; the number after the last one means "no
    class"."""

    mixture: Mixture

    def log_density(self, x: Tensor, sigma: Tensor, class_labels: Tensor) -> Tensor:
        """Returns log p(x | class) [B] of x = x0 + sigma * z."""
        return self._of_each(x, sigma).gather(1, class_labels[:, None])[:, 0]

    def logits(self, y: Tensor, tau: Tensor) -> Tensor:
        """Returns the output of a perfect classifier for y = x / sqrt(1 + sigma^2), up to a constant per
        sample; computed in float64."""
        sigma = sigma_from_tau(tau.double())
        x = y.double() * (1 + sigma**2).sqrt()[:, None]
        return self._of_each(x, sigma)[:, :-1] + torch.tensor(self.mixture.weights, dtype=torch.float64).log()

    def denoiser(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        """Returns E[x0 | x, class]."""
        assert class_labels is not None
        each = torch.stack([part.denoiser(x, sigma) for part in self._parts()], dim=1)
        return each.gather(1, class_labels[:, None, None].expand(-1, 1, 2))[:, 0]

    def _parts(self) -> list[Mixture]:
        return [*(Mixture((1.0,), (mean,), self.mixture.std) for mean in self.mixture.means), self.mixture]

    def _of_each(self, x: Tensor, sigma: Tensor) -> Tensor:
        return torch.stack([part.log_density(x, sigma) for part in self._parts()], dim=1)


@dataclass(frozen=True)
class ClassifierFreeDenoiser:
    """Classifier-free guidance of a denoiser: epsilon's formula holds for denoised = x - sigma * epsilon. A
    `Switch` of the scale is by linear-VP time."""

    denoiser: Denoiser
    null_label: int
    scale: Scale

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        assert class_labels is not None
        conditional = self.denoiser(x, sigma, class_labels)
        if self.scale == 1.0:
            return conditional
        null = self.denoiser(x, sigma, torch.full_like(class_labels, self.null_label))
        return null + per_sample(scale_at(self.scale, tau_from_sigma(sigma)), x) * (conditional - null)
