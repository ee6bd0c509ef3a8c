"""Training losses per sample [B]. Real = 1, fake = 0."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dgflow.diffusion.samplers import Denoiser
from dgflow.diffusion.times import mean_std, per_sample

LINEAR_ABOVE = 10.0
"""Log-ratio above which the LSIF and UKL losses continue exp by its tangent, so that one sample cannot
overflow a batch."""


def lognormal_sigma(normal: Tensor, P_mean: float = -1.2, P_std: float = 1.2) -> Tensor:
    """EDM's training noise levels from unit normals (Karras et al. 2022, Table 1)."""
    return torch.exp(P_mean + P_std * normal)


def edm_loss(
    denoiser: Denoiser,
    images: Tensor,
    sigma: Tensor,
    noise: Tensor,
    class_labels: Tensor | None = None,
    sigma_data: float = 0.5,
) -> Tensor:
    """Weighted denoising error [B], averaged over pixels (Karras et al. 2022, equation 8).

    Args:
        images: clean [B, C, H, W] in [-1, 1].
        sigma: [B] > 0.
        noise: unit normals like images.
    """
    weight = (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()
    denoised = denoiser(images + per_sample(sigma, images) * noise, sigma, class_labels)
    return weight * (denoised - images).square().flatten(1).mean(1)


def perturb(images: Tensor, tau: Tensor, noise: Tensor) -> Tensor:
    """y = mean * x0 + std * noise at linear-VP times tau [B]: the input of classifiers and discriminators."""
    mean, std = mean_std(tau)
    return per_sample(mean, images) * images + per_sample(std, images) * noise


def discriminator_loss(logit: Tensor, is_real: Tensor, kind: Literal["bce", "lsif", "ukl"] = "bce") -> Tensor:
    """Bregman loss [B] of log-ratio estimates: its mean over real and fake samples in equal numbers is least
    at log(p_real / p_fake).

    Args:
        logit: [B], the estimated log-ratio.
        is_real: [B], bool or 0 and 1.
        kind: with r = exp(logit): "bce" softplus(-+logit); "lsif" r^2 / 2 for fake, -r for real; "ukl" r for
            fake, -logit for real. In lsif and ukl, r continues linearly above exp(10), so that the gradient
            stays bounded and does not vanish.
    """
    real = is_real.to(torch.bool)
    if kind == "bce":
        return torch.where(real, F.softplus(-logit), F.softplus(logit))
    # r(min(l, c)) * (1 + max(l - c, 0)): value and slope are continuous at c, and no branch of the where can
    # overflow.
    ratio = torch.exp(logit.clamp(max=LINEAR_ABOVE)) * (1.0 + F.relu(logit - LINEAR_ABOVE))
    if kind == "lsif":
        return torch.where(real, -ratio, 0.5 * ratio.square())
    if kind == "ukl":
        return torch.where(real, -logit, ratio)
    raise ValueError(f'expected kind "bce", "lsif" or "ukl", found {kind!r}')


def classifier_loss(logits: Tensor, class_labels: Tensor) -> Tensor:
    """Cross-entropy [B] of logits [B, K] for int64 class labels [B]."""
    return F.cross_entropy(logits, class_labels, reduction="none")
