"""The exact denoiser of a Gaussian mixture and the exact log-ratio of two, as modules without parameters.

Both compute in float64 from the mixtures' parameters, independent of the sampling precision.
"""

from __future__ import annotations

from torch import Tensor, nn

from dgflow.diffusion import mixtures
from dgflow.diffusion.mixture_specs import GaussianMixture
from dgflow.diffusion.times import per_sample


class MixtureDenoiser(nn.Module):
    """The denoiser E[x0 | x] of a mixture."""

    def __init__(self, mixture: GaussianMixture) -> None:
        super().__init__()
        self.mixture = mixture

    def forward(self, x: Tensor, sigma_B: Tensor) -> Tensor:
        """The denoised points, shaped like x [B, ...], float64."""
        return mixtures.denoised(self.mixture, x.flatten(1), sigma_B).view(x.shape)


class MixtureLogRatio(nn.Module):
    """The log-ratio log p_real / p_model of noisy points: a perfect discriminator."""

    def __init__(self, real: GaussianMixture, model: GaussianMixture) -> None:
        super().__init__()
        self.real, self.model = real, model

    def forward(self, y: Tensor, sigma_B: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Logit [B], float64, of y = x / sqrt(1 + sigma^2); classes are ignored."""
        del class_labels
        sigma_B = sigma_B.double().expand(len(y))
        x = y.double() * per_sample((1.0 + sigma_B.square()).sqrt(), y)
        return mixtures.log_ratio(self.real, self.model, x.flatten(1), sigma_B)
