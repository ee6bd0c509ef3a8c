"""Training losses per sample [B], and the gain estimator that selects a discriminator without generating.
Real = 1, fake = 0."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dgflow.diffusion.discriminator_guidance import LogRatio, log_ratio_and_gradient
from dgflow.diffusion.samplers import Denoiser
from dgflow.diffusion.times import TimeMap, mean_std, per_sample, tau_from_sigma

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


@torch.no_grad()
def gain(
    denoiser: Denoiser,
    discriminator: LogRatio,
    images: Tensor,
    sigma: Tensor,
    noise: Tensor,
    class_labels: Tensor | None = None,
    *,
    sigma_min: float,
    sigma_max: float,
    weight: float = 1.0,
    time: TimeMap = tau_from_sigma,
) -> Tensor:
    """Per-sample estimates [B] whose mean is the fall in KL(real || model) that guidance brings (Kim et al.
    2023, theorem 2).

    Theorem 2's difference of score errors equals the difference of denoising errors on held-out real images,
    where the unknown score cancels: Gain = integral of sigma^-3 E[|x0 - D|^2 - |x0 - D'|^2] d sigma, D' = D +
    weight * sigma^2 * grad_x log_ratio. Positive is better; above the window's sigma_min and up to sigma_max
    only.

    Args:
        images: held-out real [B, ...].
        sigma: [B], log-uniform on [sigma_min, sigma_max] (`times.log_uniform_sigma`), the levels that
            guidance acts on.
        noise: unit normals.
        time: as in `DiscriminatorTerm`.
    """
    sigma = sigma.double()
    images = images.double()
    x = images + per_sample(sigma, images) * noise
    denoised = denoiser(x, sigma, class_labels).double()
    _, gradient = log_ratio_and_gradient(discriminator, x, sigma, class_labels, time=time)
    shift = weight * per_sample(sigma.square(), images) * gradient
    # |x0 - D|^2 - |x0 - D - shift|^2, multiplied out so that two large errors are not subtracted.
    difference = (shift * (2.0 * (images - denoised) - shift)).flatten(1).sum(1)
    return difference / sigma.square() * math.log(sigma_max / sigma_min)
