"""Gaussian mixtures under noise, in closed form and float64.

With x = x0 + sigma * z, a mixture of isotropic Gaussians stays one: every variance grows by sigma^2. The
density of noisy points, its score, the denoiser and the log-ratio of two mixtures are therefore known at
every noise level, and expectations are sums over the nodes of a quadrature. Points are [B, d], noise levels
[B].
"""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.mixture_specs import GaussianMixture


def log_density(mixture: GaussianMixture, x: Tensor, sigma: Tensor) -> Tensor:
    """log p_sigma(x) [B] of the points x [B, d], in nats; sigma [B], 0 for the mixture itself."""
    return torch.logsumexp(_joint(mixture, x.double(), sigma.double()), dim=1)


def denoised(mixture: GaussianMixture, x: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x] [B, d] by Bayes' rule: each component's posterior mean, weighted by its posterior
    probability."""
    x, sigma = x.double(), sigma.double()
    means, variances = _moments(mixture, x)
    kept = (variances / (variances + sigma[:, None] ** 2))[..., None]  # [B, K, 1]
    posterior = torch.softmax(_joint(mixture, x, sigma), dim=1)[..., None]
    return (posterior * (means + kept * (x[:, None] - means))).sum(dim=1)


def score(mixture: GaussianMixture, x: Tensor, sigma: Tensor) -> Tensor:
    """The score grad_x log p_sigma(x) [B, d]."""
    pulls, posterior = _pulls(mixture, x.double(), sigma.double())
    return (posterior[..., None] * pulls).sum(dim=1)


def laplacian(mixture: GaussianMixture, x: Tensor, sigma: Tensor) -> Tensor:
    """The divergence of the score, sum_i d^2/dx_i^2 log p_sigma(x), [B].

    With the pulls g_k = -(x - m_k) / v_k of the components, and expectations over their posterior
    probabilities, it is E[|g|^2 - d / v] - |E[g]|^2.
    """
    x, sigma = x.double(), sigma.double()
    pulls, posterior = _pulls(mixture, x, sigma)
    curvature = x.shape[1] / (_moments(mixture, x)[1] + sigma[:, None] ** 2)
    mean = (posterior[..., None] * pulls).sum(dim=1)
    return (posterior * (pulls.square().sum(dim=2) - curvature)).sum(dim=1) - mean.square().sum(dim=1)


def log_ratio(real: GaussianMixture, model: GaussianMixture, x: Tensor, sigma: Tensor) -> Tensor:
    """log p_real / p_model [B] of noisy points: the logit of a perfect discriminator."""
    return log_density(real, x, sigma) - log_density(model, x, sigma)


def posterior(mixture: GaussianMixture, x: Tensor, sigma: Tensor) -> Tensor:
    """The probabilities [B, K] that x [B, d] came from each component."""
    return torch.softmax(_joint(mixture, x.double(), sigma.double()), dim=1)


def points(mixture: GaussianMixture, seed: int, index_B: Tensor) -> Tensor:
    """The samples `index_B` (int64 [B]) of the mixture, float64 [B, d]: a function of seed and index only,
    independent of every sampler's latents.
    """
    uniform = noise.uniform(seed, index_B, (), step=0, draw=noise.COMPONENT)
    edges = torch.tensor(list(accumulate(mixture.weights))[:-1], dtype=torch.float64, device=index_B.device)
    chosen = (uniform[:, None] > edges).sum(dim=1)
    means = torch.tensor(mixture.means, dtype=torch.float64, device=index_B.device)
    stds = torch.tensor(mixture.stds, dtype=torch.float64, device=index_B.device)
    normal = noise.standard_normal(seed, index_B, (mixture.dimensions,), step=0, draw=noise.POINT)
    return means[chosen] + stds[chosen, None] * normal


def nodes(mixture: GaussianMixture, sigma: float, count: int) -> tuple[Tensor, Tensor]:
    """Nodes [N, d] and weights [N] of a quadrature under p_sigma: E[f] = sum of weights * f(nodes).

    The Gauss-Hermite rule in each coordinate of each component, N = K * count^d: exact for polynomials of
    degree 2 * count - 1 in each coordinate.
    """
    roots, shares = np.polynomial.hermite_e.hermegauss(count)
    grids = np.meshgrid(*[roots] * mixture.dimensions, indexing="ij")
    products = np.meshgrid(*[shares / shares.sum()] * mixture.dimensions, indexing="ij")
    grid = torch.from_numpy(np.stack([axis.ravel() for axis in grids], axis=1))  # [n, d]
    each = torch.from_numpy(np.prod([axis.ravel() for axis in products], axis=0))  # [n]
    means = torch.tensor(mixture.means, dtype=torch.float64)
    stds = torch.tensor([math.hypot(std, sigma) for std in mixture.stds], dtype=torch.float64)
    weights = torch.tensor(mixture.weights, dtype=torch.float64)
    at = means[:, None] + stds[:, None, None] * grid
    return at.flatten(0, 1), (weights[:, None] / weights.sum() * each).flatten()


def _moments(mixture: GaussianMixture, like: Tensor) -> tuple[Tensor, Tensor]:
    """Means [K, d] and variances [K], on the device of `like`."""
    options = {"dtype": torch.float64, "device": like.device}
    return torch.tensor(mixture.means, **options), torch.tensor(mixture.stds, **options).square()


def _joint(mixture: GaussianMixture, x: Tensor, sigma: Tensor) -> Tensor:
    """log of weight * density [B, K] of every component."""
    means, variances = _moments(mixture, x)
    variance = variances + sigma[:, None] ** 2
    weights = torch.tensor(mixture.weights, dtype=torch.float64, device=x.device)
    square = (x[:, None] - means).square().sum(dim=2)
    log_norm = 0.5 * mixture.dimensions * torch.log(2 * math.pi * variance)
    return (weights / weights.sum()).log() - square / (2 * variance) - log_norm


def _pulls(mixture: GaussianMixture, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The scores [B, K, d] of the components, and their posterior probabilities [B, K]."""
    means, variances = _moments(mixture, x)
    variance = (variances + sigma[:, None] ** 2)[..., None]
    return -(x[:, None] - means) / variance, torch.softmax(_joint(mixture, x, sigma), dim=1)
